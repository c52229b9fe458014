"""What every RPC goes through: requests that do not parse and exceptions become proper statuses."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.message import DecodeError

from rcjax.errors import InvalidRequestError, RcjaxError
from rcjax.serving.handlers import Handle, wrapped
from rcjax.serving.status import abort_with
from rcjax.serving.wire import explain_decode_error

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Undecodable:
    """Stands in for a request that did not parse: gRPC itself would answer INTERNAL."""

    error: InvalidRequestError


class StatusInterceptor(grpc.aio.ServerInterceptor):
    """Answers an `RcjaxError` with its code and details, and anything else unexpected with a bare INTERNAL.

    RPCs of every kind: of a stream, messages before the failure have been answered.
    """

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        keep = partial(_decoded, handler.request_deserializer, handler_call_details.method)
        return wrapped(handler, partial(_answering_errors, is_stream=handler.request_streaming), keep)


def _decoded(deserialize: Callable[[bytes], Any], method: str, data: bytes) -> Any:
    try:
        return deserialize(data)
    except DecodeError:
        service_name, method_name = method.lstrip("/").split("/")
        service = descriptor_pool.Default().FindServiceByName(service_name)
        return _Undecodable(explain_decode_error(data, service.methods_by_name[method_name].input_type))


def _answering_errors(handle: Handle, is_stream: bool) -> Handle:
    async def answer(request: Any, context: Any) -> Any:
        named = None if is_stream or isinstance(request, _Undecodable) else request
        try:
            return await handle(_EachChecked(request) if is_stream else _checked(request), context)
        except RcjaxError as error:
            failure = error
        except grpc.aio.AbortError:  # already answered
            raise
        except grpc.aio.InternalError as error:  # of gRPC's own: a write to a caller who is gone
            raise asyncio.CancelledError from error
        except Exception:
            logger.exception("an RPC failed unexpectedly")
            failure = RcjaxError("internal error; the server's log has the details")
        return await abort_with(context, failure, named)

    return answer


def _checked(request: Any) -> Any:
    if isinstance(request, _Undecodable):
        raise request.error
    return request


class _EachChecked:
    """Requests of a stream; one that did not parse is raised in its place, and the next one may still be asked for."""

    def __init__(self, requests: AsyncIterator[Any]):
        self._requests = requests

    def __aiter__(self) -> "_EachChecked":
        return self

    async def __anext__(self) -> Any:
        return _checked(await anext(self._requests))

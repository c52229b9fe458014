"""What every RPC goes through: requests that do not parse and exceptions become proper statuses."""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from rcjax.errors import InvalidRequestError, RcjaxError
from rcjax.serving.status import to_rpc_status
from rcjax.serving.wire import explain_decode_error

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Undecodable:
    """Stands in for a request that did not parse: gRPC itself would answer INTERNAL."""

    error: InvalidRequestError


class StatusInterceptor(grpc.aio.ServerInterceptor):
    """Answers an `RcjaxError` with its code and details, and anything else unexpected with a bare INTERNAL."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler
        return grpc.unary_unary_rpc_method_handler(
            _answering_errors(handler.unary_unary),
            request_deserializer=_keeping_errors(handler.request_deserializer, handler_call_details.method),
            response_serializer=handler.response_serializer,
        )


def _keeping_errors(deserialize: Callable[[bytes], Any], method: str) -> Callable[[bytes], Any]:
    def keep(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError:
            service_name, method_name = method.lstrip("/").split("/")
            service = descriptor_pool.Default().FindServiceByName(service_name)
            return _Undecodable(explain_decode_error(data, service.methods_by_name[method_name].input_type))

    return keep


def _answering_errors(
    handle: Callable[[Any, Any], Awaitable[Any]],
) -> Callable[[Any, Any], Awaitable[Any]]:
    async def answer(request: Any, context: Any) -> Any:
        try:
            if isinstance(request, _Undecodable):
                raise request.error
            return await handle(request, context)
        except RcjaxError as error:
            failure = error
        except grpc.aio.AbortError:  # already answered
            raise
        except Exception:
            logger.exception("an RPC failed unexpectedly")
            failure = RcjaxError("internal error; the server's log has the details")
        named = None if isinstance(request, _Undecodable) else request
        status = rpc_status.to_status(to_rpc_status(failure, named))
        return await context.abort(status.code, status.details, status.trailing_metadata)

    return answer

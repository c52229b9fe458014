"""What is noted of every RPC: a request id, how it ended and how long it took, a line in the log, a span."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import grpc

from rcjax.engine.request_id import working_on
from rcjax.serving.handlers import Handle, wrapped
from rcjax.serving.telemetry.line_limit import LineLimit
from rcjax.serving.telemetry.request_ids import request_id_of
from rcjax.serving.telemetry.rpc_counts import RpcCounts

logger = logging.getLogger(__name__)
_OWN = "/rcjax."  # health and reflection are counted, but no lines tell of them


class TelemetryInterceptor(grpc.aio.ServerInterceptor):
    """The outermost one, so that it sees what others refuse.

    `tracing`, where there is any, is a `rcjax.serving.telemetry.tracing.Tracing`.
    """

    def __init__(self, counts: RpcCounts, lines: LineLimit, tracing: Any = None):
        self._counts = counts
        self._lines = lines
        self._tracing = tracing

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None:
            self._counts.refuse_unknown()
            return None
        metadata = dict(handler_call_details.invocation_metadata or ())
        return wrapped(handler, lambda handle: self._noting(handle, handler_call_details.method, metadata))

    def _noting(self, handle: Handle, method: str, metadata: Mapping[str, str | bytes]) -> Handle:
        async def answer(request: Any, context: Any) -> Any:
            with self._noted(method, metadata, context):
                return await handle(request, context)

        return answer

    @contextmanager
    def _noted(self, method: str, metadata: Mapping[str, str | bytes], context: Any) -> Iterator[None]:
        request_id = request_id_of(metadata)
        traced = self._tracing.rpc(method, metadata, request_id) if self._tracing is not None else nullcontext()
        start_s, code = time.monotonic(), "OK"
        self._counts.begin(method)
        with working_on(request_id), traced as trace:
            try:
                yield
            except BaseException as error:
                code = _code_of(error, context)
                raise
            finally:
                seconds = time.monotonic() - start_s
                self._counts.end(method, code, seconds)
                if trace is not None:
                    trace.end_with(code)
                if method.startswith(_OWN):
                    self._tell(method, code, seconds)

    def _tell(self, method: str, code: str, seconds: float) -> None:
        num_untold = self._lines.take(time.monotonic())
        if num_untold is None:
            return
        more = f" ({num_untold:,} RPCs before it are not told of)" if num_untold else ""
        about = {"rpc": {"method": method, "code": code, "seconds": round(seconds, 6), "num_untold": num_untold}}
        logger.info("%s %s %.1f ms%s", method, code, seconds * 1e3, more, extra=about)


def _code_of(error: BaseException, context: Any) -> str:
    """How an RPC ends that ends with an exception."""
    if isinstance(error, asyncio.CancelledError):
        return "DEADLINE_EXCEEDED" if context.time_remaining() == 0 else "CANCELLED"
    code = context.code()  # as whoever aborted it said
    return code.name if isinstance(code, grpc.StatusCode) else "UNKNOWN"

"""Traces: a span for each RPC in the caller's trace, and below it the stages of what was ranked.

OpenTelemetry is an optional dependency: only this module imports it, and only servers that trace import this module.
"""

import importlib.metadata
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from rcjax.request import RecommendResult
from rcjax.serving.answer_times import STAGES
from rcjax.serving.telemetry.stage_traces import tracing_stages

EXPORT_S = 3.0  # after which spans that the receiver does not take are let go, so that ending does not wait for it


def otlp_provider(endpoint: str, share: float) -> TracerProvider:
    """Sends spans to an OTLP receiver over gRPC, in the background.

    A caller who traces has its request traced, one who does not has not; of those who say nothing, a `share` is.
    """
    resource = Resource.create({"service.name": "rcjax", "service.version": importlib.metadata.version("rcjax")})
    provider = TracerProvider(sampler=ParentBasedTraceIdRatio(share), resource=resource, shutdown_on_exit=False)
    exporter = OTLPSpanExporter(endpoint=endpoint, insecure=endpoint.startswith("http://"), timeout=EXPORT_S)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


class Tracing:
    """Makes the spans of a server's RPCs. Stages are spans afterwards, from the times that a result tells.

    A result has each stage's length but not when it began: they are laid end to end, the last one ending with the
    answer. `queue`, which is all that is no other stage, is laid after `plan`.
    """

    def __init__(self, provider: TracerProvider):
        self._provider = provider
        self._tracer = provider.get_tracer("rcjax")
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def rpc(self, method: str, metadata: Mapping[str, str | bytes], request_id: str) -> Iterator["RpcTrace | None"]:
        """A span around an RPC, in the trace that its caller's metadata name; None where it is not traced."""
        carrier = {key: value for key, value in metadata.items() if isinstance(value, str)}
        service, _, name = method.lstrip("/").rpartition("/")
        attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name, "rcjax.request_id": request_id}
        span = self._tracer.start_span(
            f"{service}/{name}", self._propagator.extract(carrier, Context()), SpanKind.SERVER, attributes
        )
        if not span.is_recording():
            yield None
            return
        rpc = RpcTrace(self._tracer, span)
        try:
            with _current(span), tracing_stages(rpc.add_stages):
                yield rpc
        finally:
            span.end()

    def stop(self) -> None:
        """Sends what is left, and ends; blocks."""
        self._provider.shutdown()


def _current(span: Span) -> AbstractContextManager[Span]:
    """Without the exceptions that go through it, as these may quote what callers sent."""
    return trace.use_span(span, record_exception=False, set_status_on_exception=False)


class RpcTrace:
    """An RPC that is traced."""

    def __init__(self, tracer: trace.Tracer, span: Span):
        self._tracer = tracer
        self._span = span

    def end_with(self, code: str) -> None:
        """Says how the RPC ended, as gRPC names it."""
        self._span.set_attribute("rpc.grpc.status", code)
        if code != "OK":
            self._span.set_status(Status(StatusCode.ERROR, code))

    def add_stages(self, result: RecommendResult) -> None:
        """A span for a request that was just answered, with a span for each of its stages."""
        times, tokens = result.times, result.tokens
        end_ns = time.time_ns()
        at_ns = end_ns - round(times.ttft_ms * 1e6)
        around = trace.set_span_in_context(self._span)
        attributes: dict[str, str | int] = {
            "rcjax.arm": result.arm,
            "rcjax.slice": result.slice_index,
            "rcjax.tokens.cached": tokens.cached,
            "rcjax.tokens.selected": tokens.selected,
            "rcjax.tokens.fresh": tokens.fresh,
            "rcjax.tokens.built": tokens.built,
        }
        request = self._tracer.start_span("recommend", around, attributes=attributes, start_time=at_ns)
        within = trace.set_span_in_context(request)
        for stage in STAGES:
            stage_ns = round(getattr(times, f"{stage}_ms") * 1e6)
            if stage_ns:
                self._tracer.start_span(stage, within, start_time=at_ns).end(at_ns + stage_ns)
            at_ns += stage_ns
        request.end(end_ns)

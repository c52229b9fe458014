"""Traces of real RPCs: in the caller's own trace, with the stages that the answer tells."""

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from fake_router import FakeRouter
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.trace import SpanKind, StatusCode

from rcjax.config import TelemetrySettings
from rcjax.errors import NotFoundError
from rcjax.request import RecommendRequest
from rcjax.serving.client import RecommenderClient
from rcjax.serving.server import Server, running_server
from rcjax.serving.telemetry import Telemetry, telemetry_of
from rcjax.serving.telemetry.tracing import Tracing, otlp_provider
from rcjax.serving.trace_context import outgoing_metadata

RPC = "rcjax.v1.Recommender/Recommend"
GOOD = RecommendRequest(("item-1",), "ann")


class Traced:
    """A server's spans, and a client whose own spans are in another provider."""

    def __init__(self, client: RecommenderClient, exporter: InMemorySpanExporter):
        self.client = client
        self.caller = TracerProvider().get_tracer("caller")
        self._exporter = exporter

    def take(self) -> dict[str, ReadableSpan]:
        """The spans of one RPC by name; a caller hears of an error a moment before its span ends."""
        while RPC not in {span.name for span in self._exporter.get_finished_spans()}:
            time.sleep(0.001)
        spans = {span.name: span for span in self._exporter.get_finished_spans()}
        self._exporter.clear()
        return spans


@pytest.fixture
def traced() -> Iterator[Traced]:
    """Traces requests whose callers do, and no others."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(sampler=ParentBased(ALWAYS_OFF))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    server = Server(lambda: FakeRouter("item-1"), telemetry=Telemetry(tracing=Tracing(provider)))
    with running_server(server) as addresses, RecommenderClient(addresses.main, timeout_s=60.0) as client:
        yield Traced(client, exporter)


def test_a_request_is_part_of_its_callers_trace_with_its_stages(traced: Traced) -> None:
    with traced.caller.start_as_current_span("page") as page:
        result = traced.client.recommend(GOOD)
    spans = traced.take()
    times = result.times
    assert spans.keys() == {RPC, "recommend", "plan", "build", "extend", "readout"}  # no stage that took no time
    rpc, request = spans[RPC], spans["recommend"]
    assert {span.context.trace_id for span in spans.values()} == {page.get_span_context().trace_id}
    assert rpc.parent.span_id == page.get_span_context().span_id
    assert request.parent.span_id == rpc.context.span_id
    assert rpc.kind is SpanKind.SERVER
    assert rpc.attributes["rpc.grpc.status"] == "OK"
    assert len(rpc.attributes["rcjax.request_id"]) == 32
    assert (request.attributes["rcjax.arm"], request.attributes["rcjax.tokens.cached"]) == (result.arm, 100)
    lengths_ms = {
        "plan": times.plan_ms,
        "build": times.build_ms,
        "extend": times.extend_ms,
        "readout": times.readout_ms,
    }
    at_ns = request.start_time
    for stage, length_ms in lengths_ms.items():
        span = spans[stage]
        assert span.parent.span_id == request.context.span_id
        assert (span.start_time, span.end_time) == (at_ns, at_ns + round(length_ms * 1e6))
        at_ns = span.end_time
    assert rpc.start_time < rpc.end_time
    assert request.end_time <= rpc.end_time


def test_a_failure_is_an_error_that_quotes_nobody(traced: Traced) -> None:
    with traced.caller.start_as_current_span("page"), pytest.raises(NotFoundError):
        traced.client.recommend(RecommendRequest(("item-1",), "secret-user"))
    (span,) = traced.take().values()
    assert (span.status.status_code, span.attributes["rpc.grpc.status"]) == (StatusCode.ERROR, "NOT_FOUND")
    assert span.events == ()
    assert "secret-user" not in span.to_json()


def test_callers_who_do_not_trace_are_not_traced(traced: Traced) -> None:
    assert traced.client.recommend(GOOD).arm == "blocks"
    with trace.use_span(trace.NonRecordingSpan(trace.INVALID_SPAN_CONTEXT)):
        assert outgoing_metadata() == ()
        traced.client.recommend(GOOD)
    with traced.caller.start_as_current_span("page"):
        traced.client.recommend(GOOD)
    assert len(traced.take()) == 6  # of this one only


def test_a_share_of_those_who_say_nothing_is_traced() -> None:
    for share, is_traced in ((0.0, False), (1.0, True)):
        provider = otlp_provider("http://127.0.0.1:1", share)
        span = provider.get_tracer("test").start_span("x")
        assert span.is_recording() == is_traced
        assert provider.resource.attributes["service.name"] == "rcjax"
        provider.shutdown()  # before the span ends, so that nothing is sent to nobody


def test_without_the_packages_a_wanted_trace_is_an_error_that_says_what_to_install() -> None:
    code = """
import sys
sys.modules["opentelemetry"] = None
from rcjax.config import TelemetrySettings
from rcjax.serving.telemetry import telemetry_of
from rcjax.serving.trace_context import outgoing_metadata
telemetry_of(TelemetrySettings())
assert outgoing_metadata() == ()
try:
    telemetry_of(TelemetrySettings(otlp_endpoint="http://localhost:4317"))
except ValueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "telemetry.otlp_endpoint='http://localhost:4317' needs 'opentelemetry" in done.stdout
    assert "install rcjax[otel]" in done.stdout


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """A collector of spans, as far as a test needs one."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def Export(self, request: Any, context: Any) -> trace_service_pb2.ExportTraceServiceResponse:  # noqa: N802
        scopes = [scope for resource in request.resource_spans for scope in resource.scope_spans]
        self.names |= {span.name for scope in scopes for span in scope.spans}
        return trace_service_pb2.ExportTraceServiceResponse()


def test_spans_are_with_the_receiver_once_the_server_has_stopped() -> None:
    receiver, collector = Receiver(), grpc.server(ThreadPoolExecutor(1))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(receiver, collector)
    port = collector.add_insecure_port("127.0.0.1:0")
    collector.start()
    telemetry = telemetry_of(TelemetrySettings(otlp_endpoint=f"http://127.0.0.1:{port}"))
    server = Server(lambda: FakeRouter("item-1"), telemetry=telemetry)
    with running_server(server) as addresses, RecommenderClient(addresses.main, timeout_s=60.0) as client:
        client.recommend(GOOD)
    collector.stop(None).wait()
    assert receiver.names == {RPC, "recommend", "plan", "build", "extend", "readout"}


def test_what_is_no_address_of_a_receiver_is_refused() -> None:
    for endpoint in ("localhost:4317", "http://", "http://host/path"):
        with pytest.raises(ValueError, match="otlp_endpoint"):
            TelemetrySettings(otlp_endpoint=endpoint)

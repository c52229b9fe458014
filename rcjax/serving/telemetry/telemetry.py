"""All that watches a server, as it was configured."""

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server

from rcjax.config import TelemetrySettings
from rcjax.errors import UnavailableError
from rcjax.serving.engine_report import EngineReport
from rcjax.serving.telemetry.engine_collector import EngineCollector
from rcjax.serving.telemetry.interceptor import TelemetryInterceptor
from rcjax.serving.telemetry.line_limit import LineLimit
from rcjax.serving.telemetry.rpc_counts import RpcCounts


class Telemetry:
    """Metrics at `metrics`, a host and a port (0: a free one; None: nowhere), and `tracing`; for one server.

    `interceptor` notes every RPC. Metrics are read in threads of their own, whatever the engine's threads do.
    """

    def __init__(self, metrics: tuple[str, int] | None = None, *, tracing: Any = None, max_rpc_lines_per_s: int = 20):
        self._metrics = metrics
        self._tracing = tracing
        self._rpcs = RpcCounts()
        self.interceptor = TelemetryInterceptor(self._rpcs, LineLimit(max_rpc_lines_per_s), tracing)
        self._server: Any = None

    def start(self, engine: Callable[[], Any]) -> str:
        """Serves metrics of the engine, which may be unavailable yet, and returns where as `host:port`, or "".

        `OSError` where it cannot listen there.
        """
        if self._metrics is None:
            return ""
        registry = CollectorRegistry()
        for collector in (EngineCollector(lambda: _report_of(engine)), self._rpcs):
            registry.register(collector)
        ProcessCollector(registry=registry)
        host, port = self._metrics
        try:
            self._server, _ = start_http_server(port, host, registry)
        except OSError as error:
            message = f"cannot serve metrics on {host}:{port} ({error}): is telemetry.metrics_port taken?"
            raise OSError(message) from error
        return f"[{host}]:{self._server.server_port}" if ":" in host else f"{host}:{self._server.server_port}"

    def stop(self) -> None:
        """Serves no more metrics, and sends the spans that are left; blocks for seconds at most."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        if self._tracing is not None:
            self._tracing.stop()


def telemetry_of(settings: TelemetrySettings) -> Telemetry:
    """ValueError where traces are wanted and the packages for that are not there."""
    tracing = None
    if settings.otlp_endpoint is not None:
        try:
            from rcjax.serving.telemetry.tracing import Tracing, otlp_provider
        except ModuleNotFoundError as error:
            raise ValueError(
                f"telemetry.otlp_endpoint={settings.otlp_endpoint!r} needs {error.name!r}; install rcjax[otel]"
            ) from error
        tracing = Tracing(otlp_provider(settings.otlp_endpoint, settings.trace_share))
    metrics = None if settings.metrics_port is None else (settings.metrics_host, settings.metrics_port)
    return Telemetry(metrics, tracing=tracing, max_rpc_lines_per_s=settings.max_rpc_lines_per_s)


def _report_of(engine: Callable[[], Any]) -> EngineReport | None:
    try:
        found = engine()
    except UnavailableError:  # it is being made
        return None
    report: EngineReport = found.report()
    return report

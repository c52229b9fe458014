"""Settings of what a server tells of itself: metrics, traces, logs."""

from typing import Literal

from pydantic import Field

from rcjax.config.strict import StrictModel


class TelemetrySettings(StrictModel):
    """Metrics are served over HTTP at `metrics_host` and `metrics_port`; None serves none.

    Traces go to `otlp_endpoint`, an OTLP receiver over gRPC such as `http://localhost:4317`; None makes none. Of the
    requests whose callers have not decided it themselves, `trace_share` is traced. `log` is for people (`rich`) or
    machines (`json`, an object a line). At most `max_rpc_lines_per_s` lines a second tell of single RPCs.
    """

    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = Field(None, ge=0, le=65535)
    otlp_endpoint: str | None = Field(None, pattern=r"^https?://[^/\s]+$")
    trace_share: float = Field(1.0, ge=0, le=1)
    log: Literal["rich", "json"] = "rich"
    max_rpc_lines_per_s: int = Field(20, ge=0)

"""Settings of telemetry: what they are by default, and what is refused."""

import pytest

from rcjax.config import TelemetrySettings, load_settings


def test_by_default_nothing_leaves_the_process_but_lines_for_people() -> None:
    settings = TelemetrySettings()
    assert (settings.metrics_port, settings.otlp_endpoint, settings.log) == (None, None, "rich")


def test_a_file_says_where_things_go(tmp_path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(
        "telemetry: {metrics_port: 9464, metrics_host: 0.0.0.0, log: json, otlp_endpoint: 'http://otel:4317'}"
    )
    settings = load_settings(path).telemetry
    assert (settings.metrics_host, settings.metrics_port, settings.log) == ("0.0.0.0", 9464, "json")
    assert settings.otlp_endpoint == "http://otel:4317"


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("{metrics_port: 70000}", "metrics_port"),
        ("{log: xml}", "log"),
        ("{trace_share: 1.5}", "trace_share"),
        ("{otlp_endpoint: 'localhost:4317'}", "otlp_endpoint"),
        ("{max_rpc_lines_per_s: -1}", "max_rpc_lines_per_s"),
    ],
)
def test_errors_name_the_field(tmp_path, text: str, field: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(f"telemetry: {text}")
    with pytest.raises(ValueError, match=rf"telemetry\.{field}"):
        load_settings(path)

"""The dashboard, the alerts and the documentation name the metrics that there are, with labels that these have."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from rcjax.serving.telemetry import METRICS

ROOT = Path(__file__).parents[2]
DASHBOARD = json.loads((ROOT / "deploy" / "grafana.json").read_text(encoding="utf-8"))
RULES = [
    rule
    for group in yaml.safe_load((ROOT / "deploy" / "alerts.yaml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
OF_TARGET = {"instance", "job"}  # which Prometheus adds
OF_PROCESS = {"process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"}


def exported() -> dict[str, set[str]]:
    """The labels of every series that a server exports, by its name."""
    labels: dict[str, set[str]] = {name: set() for name in OF_PROCESS}
    for metric in METRICS:
        own = set(metric.labels)
        if metric.kind == "histogram":
            labels |= {f"{metric.name}_bucket": own | {"le"}, f"{metric.name}_sum": own, f"{metric.name}_count": own}
        else:
            labels[metric.name] = own
    return labels


EXPORTED = exported()


def targets() -> Iterator[tuple[str, str]]:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


def checked(expression: Any) -> set[str]:
    """The labels that the result of a query may have; AssertionError where it names what is not exported."""
    if isinstance(expression, promql_parser.VectorSelector):
        assert expression.name in EXPORTED, expression.name
        labels = EXPORTED[expression.name] | OF_TARGET
        for matcher in expression.matchers.matchers:
            assert matcher.name in labels, (expression.name, matcher.name)
        return labels
    if isinstance(expression, promql_parser.MatrixSelector):
        return checked(expression.vector_selector)
    if isinstance(expression, promql_parser.ParenExpr):
        return checked(expression.expr)
    if isinstance(expression, promql_parser.AggregateExpr):
        labels = checked(expression.expr)
        if expression.modifier is None:
            return set()
        assert str(expression.modifier).startswith("by"), "name the labels that stay"
        assert set(expression.modifier.labels) <= labels, (expression.modifier.labels, labels)
        return set(expression.modifier.labels)
    if isinstance(expression, promql_parser.Call):
        found = [checked(argument) for argument in expression.args]
        if expression.func.name == "histogram_quantile":
            assert "le" in found[-1]
            return found[-1] - {"le"}
        return found[-1] if found else set()
    if isinstance(expression, promql_parser.BinaryExpr):
        return checked(expression.lhs) | checked(expression.rhs)
    assert isinstance(expression, promql_parser.NumberLiteral), expression
    return set()


def parsed(text: str) -> Any:
    return promql_parser.parse(text.replace("$__rate_interval", "1m"))


@pytest.mark.parametrize(("title", "text"), list(targets()))
def test_a_panel_asks_for_what_is_exported(title: str, text: str) -> None:
    labels = checked(parsed(text))
    (panel,) = [panel for panel in DASHBOARD["panels"] if panel["title"] == title]
    (legend,) = [target["legendFormat"] for target in panel["targets"] if target["expr"] == text]
    assert set(re.findall(r"{{(\w+)}}", legend)) <= labels
    assert panel["description"]


@pytest.mark.parametrize("text", ["rcjax_nothing", "rcjax_ready{slice='1'}", "sum by (arm) (rcjax_items)"])
def test_what_is_not_exported_is_noticed(text: str) -> None:
    with pytest.raises(AssertionError):
        checked(parsed(text))


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    panels = DASHBOARD["panels"]
    assert DASHBOARD["schemaVersion"] == 42
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, f"{panel['title']} lies on another panel"
        taken |= cells
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            name, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["definition"]).groups()
            assert label in EXPORTED[name] | OF_TARGET


def test_every_metric_is_on_the_dashboard() -> None:
    shown = "\n".join(text for _, text in targets())
    assert [
        metric.name for metric in METRICS if not re.search(rf"\b{metric.name}(_sum|_count|_bucket)?\b", shown)
    ] == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_asks_for_what_is_exported(rule: dict[str, Any]) -> None:
    labels = checked(parsed(rule["expr"]))
    assert set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])) <= labels
    assert rule["labels"]["severity"] in ("warning", "critical")


def table_of(heading: str) -> list[list[str]]:
    """The rows of the table that follows a heading of the documentation."""
    part = OPERATIONS.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split(" | ") for line in part.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in row] for row in rows]


def test_every_metric_is_documented_with_its_labels() -> None:
    documented: dict[str, set[str]] = {}
    for name, meaning, action in table_of("Metrics"):
        base, labels = re.fullmatch(r"`(\w+)(?:\{([\w, ]+)\})?`", name).groups()
        assert base not in documented
        documented[base] = set(labels.split(", ")) if labels else set()
        assert meaning
        assert action
    assert documented == {metric.name: set(metric.labels) for metric in METRICS}


def test_every_alert_is_documented() -> None:
    assert [row[0].strip("`") for row in table_of("Alerts")] == [rule["alert"] for rule in RULES]

"""`rcjax simulate`: what it prints, writes and refuses."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from rcjax.cache.placement import Placement
from rcjax.commands.app import app


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.chdir(tmp_path)


def run(*args: object):
    return CliRunner().invoke(app, ["simulate", "--slices", "4", *map(str, args)])


def test_policies_are_compared_on_the_same_requests(tmp_path):
    small = ("--items", 200, "-n", 120, "--policy", "all", "--load", 0.5)
    result = run(*small, "--json", "one.json", "--plot", "one.png")
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "one.json").read_text())
    assert list(report["policies"]) == ["time", "affinity", "round_robin", "least_loaded", "hit_only"]
    hits = {name: figures["hits"]["local"] for name, figures in report["policies"].items()}
    assert max(hits, key=hits.get) == "hit_only"
    for figures in report["policies"].values():
        assert figures["num_requests"] == figures["num_decisions"] == 120
        assert sum(figures["hits"].values()) == pytest.approx(1)
        assert figures["ttft_s"]["p50"] <= figures["ttft_s"]["p90"] <= figures["ttft_s"]["p99"]
    assert "not measured" in result.output
    assert (tmp_path / "one.png").stat().st_size > 1000
    again = run(*small, "--json", "two.json")
    assert again.exit_code == 0
    assert json.loads((tmp_path / "two.json").read_text()) == report


def test_a_log_is_served_from_where_its_items_are_placed(tmp_path):
    ids = [f"sku-{number}" for number in range(40)]
    with (tmp_path / "log.jsonl").open("w") as log:
        for number in range(100):
            first = 10 * (number % 4)
            log.write(json.dumps({"candidates": ids[first : first + 10], "at_s": number}) + "\n")
    Placement.of_part(ids, np.arange(40) // 10, 4).save(tmp_path / "p.json")
    result = run("--trace", "log.jsonl", "--placement", "p.json", "--policy", "hit_only", "--json", "one.json")
    assert result.exit_code == 0, result.output
    figures = json.loads((tmp_path / "one.json").read_text())["policies"]["hit_only"]
    assert figures["hits"]["local"] == 1.0
    assert figures["imbalance"] == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--placement", "absent.json"), "absent.json"),
        (("--trace", "absent.jsonl"), "absent.jsonl: no such file of requests"),
        (("--costs", "absent.json"), "absent.json: no such file of costs"),
        (("--alpha", 0, "--beta", 0), "--alpha and --beta are both 0"),
        (("--json", "no/where.json"), "no"),
    ],
)
def test_what_it_cannot_do_is_said_in_a_line(args, says):
    result = run("--items", 100, "-n", 100, *args)
    assert result.exit_code == 1
    assert says in result.output
    assert "Traceback" not in result.output

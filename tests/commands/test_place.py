"""`rcjax place` on the embedded shop: the file it writes, what it prints, and what it refuses."""

import json

import pytest
from typer.testing import CliRunner

from rcjax.cache.placement import Placement
from rcjax.catalog import embedded_catalogue
from rcjax.commands.app import app


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def shop():
    return embedded_catalogue()


@pytest.fixture
def log(shop, tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps({"candidates": request.candidates}) + "\n" for request in shop.requests))
    return path


def run(log, *args: object):
    return CliRunner().invoke(app, ["place", "--log", str(log), "--slices", "4", "-o", "p.json", *map(str, args)])


@pytest.mark.parametrize("method", ["hash", "metis", "streaming", "overlap"])
def test_it_places_every_item_within_the_budget_and_says_what_it_reaches(method, log, shop, tmp_path):
    result = run(log, "--method", method, "--budget", 1.5)
    assert result.exit_code == 0, result.output
    placement = Placement.load(tmp_path / "p.json")
    assert placement.item_ids == tuple(shop.items)
    assert placement.num_slices == 4
    # by count, for items of about one size: all would be 240 on one slice each at 1.0
    assert 240 <= len(placement.slices) <= 1.6 * 240
    for said in (
        f"{method}: 240 items on 4 slices",
        "held out (12)",
        "learnt from (64)",
        "items that the best slice has",
    ):
        assert said in result.output
    assert f"fingerprint {placement.fingerprint[:16]}" in result.output


def test_the_seed_and_the_log_decide(log, tmp_path):
    prints = []
    for seed in (1, 1, 2):
        run(log, "--method", "hash", "--seed", seed, "--held-out", 0)
        prints.append(Placement.load(tmp_path / "p.json").fingerprint)
    assert prints[0] == prints[1] != prints[2]


def test_unknown_items_are_refused_or_left_out_and_told(log, tmp_path):
    log.write_text(log.read_text() + '{"candidates": ["item-00001", "gone-1", "gone-2"]}\n')
    refused = run(log)
    assert refused.exit_code == 1
    assert refused.stderr.splitlines() == [
        "error: request 65 names item 'gone-1', which the catalogue lacks; add or skip it"
    ]
    assert not (tmp_path / "p.json").exists()
    skipped = run(log, "--unknown", "skip", "--method", "hash")
    assert skipped.exit_code == 0
    assert "left out 2 references to items that the catalogue lacks" in skipped.output


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", "log.jsonl: 0 requests are too few to hold out 0.2 of them"),
        ('{"candidates": ["item-00001"]}\n', "log.jsonl: 1 requests are too few to hold out 0.2 of them"),
        ('{"candidates": ["item-00001"]}\n{"candid', "log.jsonl:2: "),
        ('{"user_id": "u"}\n', "log.jsonl:1: field 'candidates'"),
    ],
)
def test_a_log_that_is_no_good_is_one_line(lines, message, log):
    log.write_text(lines)
    result = run(log)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_a_missing_log_is_one_line(tmp_path):
    result = run(tmp_path / "none.jsonl")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [f"error: {tmp_path}/none.jsonl: no such file"]


def test_a_place_that_cannot_be_written_is_told_first(log, tmp_path):
    (tmp_path / "file").write_text("")
    result = run("no log", "-o", tmp_path / "file" / "p.json")
    assert result.exit_code == 1
    assert "file cannot be written: Not a directory" in result.stderr


def test_more_slices_than_items_are_refused(log):
    result = run(log, "--slices", 241)
    assert result.exit_code == 1
    assert "num_slices=241 must be from 1 to the number of items, 240" in result.stderr.replace("self.", "")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--budget", 2, "--hot-count", 1], "give one of"),
        (["--hot-count", 1], "for the methods with a hot set"),
        (["--method", "metis", "--hot-share", 1.5], "--hot-share"),
        (["--budget", 0.5], "--budget"),
        (["--method", "best"], "--method"),
    ],
)
def test_wrong_usage_ends_with_2(args, message, log):
    result = run(log, *args)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())

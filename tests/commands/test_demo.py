"""The demo on a tiny model: what it prints at any width, what its page draws, and what it does when time runs out."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO
from typing import NamedTuple

import numpy as np
import pytest
from rich.console import Console
from tiny_engine import tiny_model
from typer.testing import CliRunner

from rcjax.catalog import EmbeddedWorld
from rcjax.commands.app import app
from rcjax.commands.demo.page import page
from rcjax.commands.demo.quality import BATCH, CACHED_SHARE, cached_and_full, measure
from rcjax.commands.demo.report import DemoReport
from rcjax.commands.demo.run import demo_settings, run_demo
from rcjax.commands.demo.tables import TABLE_WIDTH, introduction, labelled, quality_lines, show_report, show_request
from rcjax.config import ArmSettings, Settings, ShapeSize
from rcjax.disk import DiskError
from rcjax.errors import InvalidRequestError
from rcjax.evaluation.bayes import bayes_optimal
from rcjax.evaluation.dataset import Dataset
from rcjax.evaluation.ranking import chance_ndcg
from rcjax.prompt import Reuse
from rcjax.request import RankedItem, RecommendResult, StageTimes, TokenCounts
from rcjax.serving.explanation_drawing import COLOURS

NUM_SHOWN, NUM_ASKED = 2, 6


class Found(NamedTuple):
    report: DemoReport
    printed: str
    page: str


@pytest.fixture(scope="module")
def found(shop_settings, tmp_path_factory) -> Found:
    """A demo whose default arm is exact from cached blocks."""
    file = tmp_path_factory.mktemp("page") / "demo.html"
    console = Console(file=StringIO(), width=160)
    settings = shop_settings.model_copy(update={"default_arm": "parallel"})
    report = run_demo(console, settings, NUM_SHOWN, model=tiny_model(), html=file, num_quality_requests=NUM_ASKED)
    return Found(report, console.file.getvalue(), file.read_text("utf-8"))


def test_it_prints_requests_times_and_quality(found):
    lines = found.printed.splitlines()
    assert "KV of 240 items and 2 shoppers cached" in found.printed
    assert any("request 1 of 2: shopper test-00000" in line for line in lines)
    assert any("request 2 of 2: shopper test-00001" in line for line in lines)
    for arm in ("full", "prefix", "rcjax", "parallel"):
        assert len([line for line in lines if line.startswith(f"│ {arm} ")]) == 3
    rows = [line.split() for line in lines if re.match(r"  (best|full recompute|cached blocks|chance) ", line)]
    assert [row[0] for row in rows] == ["best", "full", "cached", "chance"]
    assert "\n0 compilations after start-up" in found.printed
    assert lines[-1].startswith("What next? `rcjax serve`")
    assert "\x1b" not in found.printed


def test_the_chosen_item_is_marked_and_ranked_as_in_full(found):
    arrows = [line for line in found.printed.splitlines() if line.startswith(" →")]
    titles = [found.report.shop.items[shown.request.target].title for shown in found.report.shown]
    assert len(arrows) == NUM_SHOWN
    assert all(title[:20] in line for title, line in zip(titles, arrows, strict=True))
    printed = re.findall(r"^[ →]+(\d+) +(\d+) +-?\d+\.\d\d +(item-\d+)", found.printed, re.MULTILINE)
    assert [place for place, _, _ in printed] == list("12345") * NUM_SHOWN
    for shown, rows in zip(found.report.shown, (printed[:5], printed[5:]), strict=True):
        for arm, column in (("parallel", 0), ("full/parallel/anchor", 1)):
            ranks = {ranked.item_id: ranked.rank for ranked in shown.answers[arm].result.ranking}
            assert [int(row[column]) for row in rows] == [ranks[row[2]] for row in rows]


def test_the_quality_is_that_of_the_requests(found):
    best, full, cached, chance = found.report.quality.rows
    world = EmbeddedWorld(0)
    requests = tuple(world.requests(NUM_ASKED, split="test"))
    assert best.ndcg == pytest.approx(bayes_optimal(world, requests).bayes.ndcg_at_10)
    assert chance.ndcg == pytest.approx(chance_ndcg(10, 20))
    assert {row.num_requests for row in (best, full, cached, chance)} == {NUM_ASKED}
    assert cached.ndcg == pytest.approx(full.ndcg, abs=0.01), "beginnings of titles may be the same, and scores tied"
    summary = found.report.quality.summaries["parallel"]
    assert summary.reference == "full/parallel/anchor"
    assert 0 < summary.fidelity.max_score_difference < 1e-4


def test_a_deployment_without_shapes_for_full_recompute_gets_one(shop_settings, console):
    shapes = shop_settings.shapes.model_copy(update={"rank": (ShapeSize(fresh_tokens=128, num_pages=64),)})
    arms = {"parallel": shop_settings.arms["parallel"]}
    settings = shop_settings.model_copy(update={"shapes": shapes, "arms": arms, "default_arm": "parallel"})
    report = run_demo(console, settings, 1, model=tiny_model(), num_quality_requests=2)
    assert not report.quality.errors
    assert list(report.answers) == ["parallel"], "the reference is not one of the settings' arms"
    assert report.shown[0].answers["full/parallel/anchor"].result.tokens.cached == 0
    assert [row.num_requests for row in report.quality.rows] == [2] * 4


def test_a_base_model_is_said_to_be_no_recommender(found):
    trained = found.report.settings
    base = replace(found.report, settings=demo_settings().model_copy(update={"adapter": None}))
    assert "has not been taught to rank" in base.note
    assert f"({found.report.quality.share:.0%} of the way" in base.note
    quality = found.report.quality
    ndcg = (0.7, 0.6, 0.6, 0.2)
    good = replace(quality, rows=tuple(replace(row, ndcg=n) for row, n in zip(quality.rows, ndcg, strict=True)))
    assert replace(found.report, settings=trained, quality=good).note is None
    assert "has not been taught" in replace(base, quality=good).note
    adapted = demo_settings().model_copy(update={"adapter": "embedded"})
    assert replace(base, settings=adapted, quality=good).note is None


@pytest.mark.parametrize("width", [*range(20, 40, 3), 60, 79, 80, 100, 132, 200])
def test_any_width_will_do(found, width):
    report = found.report
    console = Console(file=StringIO(), width=width)
    console.print(introduction(report.settings))
    show_request(
        console, "request 1 of 2", report.shown[0], report.shop, report.settings, "parallel", "full/parallel/anchor"
    )
    show_report(console, report)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    text = " ".join(" ".join(lines).split())
    for name, row in labelled(report.quality).items():
        assert re.search(rf"{name}:? .*?{row.ndcg:.3f}", text)
    if width < TABLE_WIDTH:
        assert re.search(r"parallel: [\d,]+ ms", text)
    else:
        assert [line for line in lines if re.match(r"[ →]+1 +1 +-?\d+\.\d\d +item-\d+ +\w", line)]


class Parsed(HTMLParser):
    """The page's elements with their attributes; every one that is opened is closed."""

    def __init__(self, page: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.strips: list[list[dict[str, str]]] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag == "svg":
            self.strips.append([])
        if tag == "rect":
            assert "svg" in self.open
            self.strips[-1].append(dict(attributes))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] == ["style"]:
            assert "url(" not in data
            assert "@import" not in data


def test_the_page_needs_nothing_from_elsewhere(found):
    parsed = Parsed(found.page)
    assert found.page.startswith("<!DOCTYPE html>")
    assert not {tag for tag, _ in parsed.elements} & {"script", "link", "img", "iframe", "object", "a"}
    assert not [
        name
        for _, attributes in parsed.elements
        for name in attributes
        if name in ("src", "href") or name.startswith("on")
    ]
    assert "http://" not in found.page
    assert "https://" not in found.page
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert ids == ["request", "prompt", "times", "quality"]


def test_the_page_draws_prompts_times_and_quality_to_scale(found):
    report, strips = found.report, Parsed(found.page).strips
    arms = list(report.answers)
    prompts, lanes, bars = strips[: len(arms)], strips[len(arms)], strips[len(arms) + 1 :]
    for arm, strip in zip(arms, prompts, strict=True):
        tokens = report.shown[0].answers[arm].result.tokens
        drawn = {state: sum(int(rect["width"]) for rect in strip if rect["fill"] == c) for state, c in COLOURS.items()}
        assert drawn == {"cached": tokens.cached, "selected": tokens.selected, "fresh": tokens.fresh}
    assert sum(int(rect["width"]) for rect in lanes) == report.shown[0].answers["parallel"].result.tokens.prompt_len
    widths = [float(rect["width"]) for (rect,) in bars]
    p50 = [np.median([answer.result.times.ttft_ms for answer in report.answers[arm]]) for arm in arms]
    ndcg = [row.ndcg for row in report.quality.rows]
    assert widths[: len(arms)] == pytest.approx([1000 * ms / max(p50) for ms in p50], abs=0.1)
    assert widths[len(arms) :] == pytest.approx([1000 * value / max(ndcg) for value in ndcg], abs=0.1)


def test_side_by_side_is_drawn_only_where_blocks_stand_so(found):
    quality = found.report.quality
    summaries = {"rcjax": quality.summaries["parallel"]}
    sequential = replace(quality, cached="rcjax", full="full", summaries=summaries)
    assert len(Parsed(page(replace(found.report, quality=sequential))).strips) == len(Parsed(found.page).strips) - 1


def test_a_page_that_could_not_be_written_is_refused_at_once(shop_settings, tmp_path, console):
    with pytest.raises(DiskError):
        run_demo(console, shop_settings, 1, html=tmp_path / "nowhere" / "demo.html")
    assert console.file.getvalue() == ""


def test_the_page_is_not_for_a_mesh(tmp_path):
    config = tmp_path / "mesh.yaml"
    config.write_text("mesh: {slices: 2}")
    result = CliRunner().invoke(app, ["demo", "--config", str(config), "--html", str(tmp_path / "demo.html")])
    assert result.exit_code == 2
    assert "--html" in result.stderr


@pytest.mark.parametrize(
    ("default", "full"), [("rcjax", "full"), ("parallel", "full/parallel/anchor"), ("full", "full")]
)
def test_the_default_arm_is_compared_with_the_same_prompt_in_full(shop_settings, default, full):
    cached, reference, arms = cached_and_full(shop_settings.model_copy(update={"default_arm": default}))
    assert (cached, reference) == ("rcjax" if default == "full" else default, full)
    assert arms.keys() == {*shop_settings.arms, full}
    assert (arms[full].layout, arms[full].scoring) == (arms[cached].layout, arms[cached].scoring)


def test_without_an_arm_that_caches_items_there_is_nothing_to_show():
    settings = Settings(arms={"prefix": ArmSettings(reuse=Reuse.PREFIX)}, default_arm="prefix")
    with pytest.raises(ValueError, match="reuse: blocks"):
        cached_and_full(settings)


class Clocked:
    """An engine on whose clock an answer takes so many seconds, and a group of histories one; ranks as it is asked."""

    def __init__(self, cached_s: float, full_s: float, *, refused: str = ""):
        self.now_s = 0.0
        self.took_s = {"cached": cached_s, "full": full_s}
        self.refused = refused
        self.known: set[str] = set()

    def put_users(self, users):
        self.known |= {user.user_id for user in users}
        self.now_s += 1.0

    def delete_user(self, user_id):
        self.known.remove(user_id)

    def recommend(self, asks):
        (ask,) = asks
        assert ask.user_id in self.known if ask.arm == "cached" else ask.history
        self.now_s += self.took_s[ask.arm]
        if ask.arm == self.refused:
            return [InvalidRequestError("too long")]
        ranking = tuple(RankedItem(item_id, -float(n), n + 1) for n, item_id in enumerate(ask.candidates))
        return [RecommendResult(ranking, TokenCounts(1, 0, 1), StageTimes(), ask.arm)]


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    world = EmbeddedWorld(0)
    catalogue = world.catalogue(num_users=40, num_requests=40)
    return Dataset(catalogue, catalogue, "the shop", world)


def measured(engine: Clocked, dataset: Dataset, seconds: float):
    return measure(engine, dataset, "cached", "full", seconds=seconds, clock=lambda: engine.now_s)


def test_with_time_for_all_every_request_is_asked_twice(dataset):
    engine = Clocked(1.0, 2.0)
    quality = measured(engine, dataset, 1e6)
    best, full, cached, chance = quality.rows
    assert {row.num_requests for row in quality.rows} == {40}
    assert (full.seconds, cached.seconds, quality.histories_s) == (80.0, 40.0, 40 / BATCH)
    assert full.ndcg == cached.ndcg
    assert chance.ndcg < best.ndcg
    assert not engine.known, "shoppers are forgotten"


def test_when_time_runs_out_it_says_of_how_many_requests(dataset):
    seconds = 30.0  # a group of histories and answers takes 9: the third one begins at 18, which is the cached share
    quality = measured(Clocked(1.0, 4.0), dataset, seconds)
    best, full, cached, chance = quality.rows
    assert seconds * CACHED_SHARE == 18.0
    assert cached.num_requests == 3 * BATCH == best.num_requests == chance.num_requests
    assert full.num_requests == 1, "27 of 30 seconds are gone, and 31 after the first"
    assert (quality.same.num_requests, quality.same.seconds) == (1, 1.0)
    assert "of 40 requests there was time for 24 from cached blocks and 1 in full" in quality_lines(quality)
    assert list(labelled(quality)) == ["best possible", "full recompute", "cached, the same", "cached blocks", "chance"]


def test_some_of_each_is_asked_however_late_it_is(dataset):
    _, full, cached, _ = measured(Clocked(1.0, 4.0), dataset, 0.0).rows
    assert (cached.num_requests, full.num_requests) == (BATCH, 1)


def test_an_arm_that_refuses_everything_ends_it(dataset):
    with pytest.raises(InvalidRequestError, match="arm 'full' answered none of 40 requests: too long"):
        measured(Clocked(1.0, 1.0, refused="full"), dataset, 1e6)

"""`rcjax eval` from settings to figures, with the tiny model: what is exact must show as exact."""

import dataclasses
import io
import json
from typing import ClassVar

import pytest
from event_reader import scalars_of
from rich.console import Console
from tiny_engine import event, item, tiny_model, tiny_settings

from rcjax.catalog import Catalogue, User
from rcjax.catalog.holdout import NextItem
from rcjax.catalog.jsonl import write_catalogue
from rcjax.config import ArmSettings, CatalogueSettings, Limits, Settings, ShapeSettings, read_catalogue
from rcjax.disk import DiskError
from rcjax.evaluation.command import run_eval
from rcjax.evaluation.dataset import eval_dataset
from rcjax.evaluation.evaluation import EvalOptions, Evaluation, evaluate
from rcjax.evaluation.report import write_report
from rcjax.prompt import Layout, Reuse, Scoring

NUM_REQUESTS = 8
ARMS = {
    "full": ArmSettings(reuse=Reuse.NONE),
    "prefix": ArmSettings(reuse=Reuse.PREFIX),
    "trusting": ArmSettings(),
    "selected": ArmSettings(selection="full"),
    "parallel": ArmSettings(layout=Layout.PARALLEL, scoring=Scoring.ANCHOR),
}
TASK = NextItem(history_len=2, num_candidates=4)
OPTIONS = EvalOptions(num_requests=NUM_REQUESTS, task=TASK, split="all", num_permutations=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A catalogue's files, and the compiled programs of the engines."""
    folder = tmp_path_factory.mktemp("shop")
    items = {f"i{n}": item(n) for n in range(20)}
    users = {f"u{n}": User(f"u{n}", tuple(event((5 * n + k) % 20) for k in range(4))) for n in range(NUM_REQUESTS)}
    write_catalogue(Catalogue(items, users), folder)
    return folder


def eval_settings(folder, **changed) -> Settings:
    """Its shapes hold no full recompute: those are for the evaluation to add."""
    fields = {
        "arms": ARMS,
        "default_arm": "prefix",
        "shapes": ShapeSettings(rank=((160, 64),), build=((128, 8),)),
        "catalogue": CatalogueSettings(format="jsonl", paths={"folder": folder}),
    }
    return tiny_settings(folder, **(fields | changed))


def console(width: int = 120) -> Console:
    return Console(file=io.StringIO(), width=width)


@pytest.fixture(scope="module")
def found(folder) -> tuple[Evaluation, str]:
    to = console(width=80)
    return evaluate(to, eval_settings(folder), OPTIONS, model=tiny_model()), to.file.getvalue()


def test_exact_arms_are_exact_and_others_are_not(found) -> None:
    summaries = found[0].summaries
    assert list(summaries) == ["full", "full/parallel/anchor", "prefix", "trusting", "selected", "parallel"]
    for name, reference in (("prefix", "full"), ("selected", "full"), ("parallel", "full/parallel/anchor")):
        summary = summaries[name]
        assert summary.reference == reference
        assert summary.fidelity.max_score_difference < 1e-4
        assert summary.fidelity.kl_nats == pytest.approx(0.0, abs=1e-6)
        assert (summary.fidelity.top1_agreement, summary.fidelity.kendall_tau) == (1.0, 1.0)
        assert all((d.value, d.low, d.high) == (0.0, 0.0, 0.0) for d in summary.differences.values())
    assert summaries["trusting"].fidelity.max_score_difference > 0.01
    assert summaries["trusting"].fidelity.kl_nats > 1e-5


def test_tokens_are_those_of_the_arm(found) -> None:
    summaries = found[0].summaries
    assert summaries["full"].tokens.fresh == 1.0
    assert summaries["selected"].tokens.fresh == 1.0
    assert summaries["selected"].tokens.selected == 1.0
    assert 0.0 < summaries["trusting"].tokens.fresh < summaries["prefix"].tokens.fresh < 1.0
    assert all(summary.tokens.built == 0.0 for summary in summaries.values())
    assert all(summary.num_invalid == 0 for summary in summaries.values())


def test_the_order_of_candidates_matters_unless_they_do_not_see_each_other(found) -> None:
    summaries = found[0].summaries
    assert summaries["parallel"].position_bias.kendall_tau == 1.0
    assert len(set(summaries["parallel"].position_bias.ndcg_at_10)) == 1
    assert summaries["full"].position_bias.kendall_tau < 1.0


def test_what_is_printed_names_what_was_measured(found) -> None:
    printed = " ".join(found[1].split())
    assert "n = 8, seed 0, also in 2 random orders of candidates; next item after 2 events, 4 candidates" in printed
    assert "full/parallel/anchor (full recompute, added)" in printed
    assert "trusting against full" in printed
    tables = printed[printed.index("quality: means over 8 requests") :]
    assert all(name in tables for name in (*found[0].summaries, "word overlap", "popularity", "chance"))
    assert "NDCG@20" in tables


def test_a_table_has_the_figures(found) -> None:
    evaluation, _ = found
    table = evaluation.to_pandas()
    assert list(table.index) == [*evaluation.summaries, *evaluation.baselines, *evaluation.bounds]
    for name, summary in evaluation.summaries.items():
        assert table.loc[name, "ndcg_at_10"] == summary.metrics["ndcg_at_10"].value
        assert table.loc[name, "fresh_share"] == summary.tokens.fresh
    for name, bound in evaluation.bounds.items():
        assert table.loc[name, list(bound)].to_dict() == bound


def test_the_files_and_the_verdict(folder, tmp_path) -> None:
    pytest.importorskip("matplotlib")
    options = EvalOptions(num_requests=4, task=TASK, split="all", arms=("trusting", "prefix"))
    to = console()
    files = {"json_file": tmp_path / "eval.json", "plot_file": tmp_path / "eval.png", "event_folder": tmp_path / "tb"}
    assert run_eval(to, eval_settings(folder), options, **files, gate=1.0, model=tiny_model())
    assert "gate passed: 2 arms within ±1 of full recompute in NDCG@10, n = 4" in to.file.getvalue()
    report = json.loads(files["json_file"].read_text())
    assert report["requests"]["n"] == 4
    assert report["model"]["model"] == "tiny"
    assert report["gate"] == {"tolerance": 1.0, "passed": True, "violations": []}
    assert set(report["arms"]) == {"full", "prefix", "trusting"}
    assert report["arms"]["trusting"]["reference"] == "full"
    assert len(report["arms"]["trusting"]["ranks"]) == 4
    assert report["arms"]["trusting"]["settings"]["reuse"] == "blocks"
    assert report["environment"]["versions"]["rcjax"]
    assert files["plot_file"].read_bytes().startswith(b"\x89PNG")
    shown = scalars_of(files["event_folder"])
    for name, arm in report["arms"].items():
        assert shown[f"ndcg_at_10/{name}"] == [(0, pytest.approx(arm["metrics"]["ndcg_at_10"]["value"]))]
        assert shown[f"ttft_p50_ms/{name}"] == [(0, pytest.approx(arm["ttft_ms"]["p50"]))]


def test_the_report_is_strict_json(found, tmp_path) -> None:
    """NaN is no JSON: a Kendall τ that nothing has must be null."""
    summaries = found[0].summaries
    unknown = dataclasses.replace(summaries["prefix"].fidelity, kendall_tau=float("nan"))
    prefix = dataclasses.replace(summaries["prefix"], fidelity=unknown)
    write_report(tmp_path / "e.json", dataclasses.replace(found[0], summaries={**summaries, "prefix": prefix}))

    def refuse(constant):
        raise AssertionError(constant)

    report = json.loads((tmp_path / "e.json").read_text(), parse_constant=refuse)
    assert report["arms"]["prefix"]["fidelity"]["kendall_tau"] is None
    assert report["arms"]["trusting"]["fidelity"]["kendall_tau"] < 1.0
    assert [asked["target"] for asked in report["requests"]["asked"]] == [
        request.target for request in found[0].dataset.asked.requests
    ]


def test_items_over_the_limits_are_never_candidates(folder) -> None:
    catalogue = read_catalogue(eval_settings(folder).catalogue)
    lengths = sorted(len(item.title) + 1 for item in catalogue.items.values())  # a token a byte, and a blank
    limits = Limits(max_item_tokens=lengths[14], max_history_tokens=96)
    options = EvalOptions(num_requests=3, task=TASK, split="all", arms=("prefix",))
    to = console(width=300)
    evaluation = evaluate(to, eval_settings(folder, limits=limits), options, model=tiny_model())
    asked = {item_id for request in evaluation.dataset.asked.requests for item_id in request.candidates}
    assert max(len(catalogue.items[item_id].title) + 1 for item_id in asked) <= lengths[14]
    servable = sum(length <= lengths[14] for length in lengths)
    assert f"from the {servable} of 20 items within the limits" in to.file.getvalue()
    assert evaluation.left_out == 0


def test_given_requests_over_the_limits_are_left_out_and_counted(folder) -> None:
    dataset = eval_dataset(eval_settings(folder), TASK, split="all")
    lengths = [max(len(dataset.asked.items[i].title) + 1 for i in r.candidates) for r in dataset.asked.requests]
    limits = Limits(max_item_tokens=min(lengths), max_history_tokens=96)
    settings = eval_settings(folder, limits=limits)
    to = console(width=300)
    evaluation = evaluate(to, settings, EvalOptions(arms=("prefix",)), model=tiny_model(), dataset=dataset)
    assert evaluation.left_out == sum(length > min(lengths) for length in lengths) > 0
    assert evaluation.num_requests == NUM_REQUESTS - evaluation.left_out
    assert f"{evaluation.left_out} requests left out; first: the text of item" in to.file.getvalue()
    assert f"n = {evaluation.num_requests}, seed 0" in to.file.getvalue()
    nothing = eval_settings(folder, limits=Limits(max_item_tokens=5, max_history_tokens=96))
    with pytest.raises(ValueError, match=r"no request is within the limits \(raise the settings' limits"):
        evaluate(to, nothing, EvalOptions(arms=("prefix",)), model=tiny_model(), dataset=dataset)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"json_file": "nowhere/eval.json"}, "nowhere cannot be written: No such file or directory"),
        ({"plot_file": "eval.txt"}, "must end in one of"),
        ({"gate": 0.005, "arms": ("full",)}, "the gate has no arm to judge"),
        ({"arms": ("fulll",)}, "arm 'fulll'"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_measured(folder, changed, message) -> None:
    options = EvalOptions(num_requests=4, arms=changed.get("arms", ("prefix",)))
    files = {key: folder / value for key, value in changed.items() if key.endswith("_file")}
    to = console()
    with pytest.raises((ValueError, DiskError), match=message):
        run_eval(to, eval_settings(folder), options, **files, gate=changed.get("gate"), model=tiny_model())
    assert to.file.getvalue() == ""


def test_the_offline_policy_gets_its_orders_first(folder) -> None:
    arms = {"full": ArmSettings(reuse=Reuse.NONE), "offline": ArmSettings(selection="offline(k=2)")}
    settings = eval_settings(folder, arms=arms, default_arm="full")
    options = EvalOptions(num_requests=3, task=TASK, split="all")
    summary = evaluate(console(), settings, options, model=tiny_model()).summaries["offline"]
    assert summary.num_invalid == 0
    assert summary.tokens.selected > 0


class TestSemanticHistory:
    """With all but the history exact."""

    ARMS: ClassVar = {
        "full": ArmSettings(reuse=Reuse.NONE),
        "none": ArmSettings(reuse=Reuse.PREFIX, history="semantic"),
        "all": ArmSettings(reuse=Reuse.PREFIX, history="semantic", selection="full"),
    }

    def test_it_is_borrowed_from_users_who_are_not_asked_about(self, folder) -> None:
        settings = eval_settings(folder, arms=self.ARMS, default_arm="full")
        to = console()
        options = EvalOptions(num_requests=NUM_REQUESTS // 2, task=TASK, split="all")
        summaries = evaluate(to, settings, options, model=tiny_model()).summaries
        assert summaries["none"].tokens.semantic > 0
        assert (summaries["none"].tokens.built, summaries["none"].tokens.selected) == (0, 0)
        assert summaries["none"].fidelity.max_score_difference > 1e-3
        assert summaries["all"].fidelity.max_score_difference < 2e-5
        assert "semantic" in to.file.getvalue()

    def test_where_nobody_is_left_it_says_so(self, folder) -> None:
        settings = eval_settings(folder, arms=self.ARMS, default_arm="full")
        to = console()
        options = EvalOptions(num_requests=NUM_REQUESTS, arms=("none",), task=TASK, split="all")
        summaries = evaluate(to, settings, options, model=tiny_model()).summaries
        assert summaries["none"].tokens.semantic == 0
        assert summaries["none"].fidelity.max_score_difference < 2e-5
        assert "nobody is left to fill the semantic pool; histories are computed in none" in to.file.getvalue()

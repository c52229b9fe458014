"""A student against its teacher: with the teacher's own weights nothing is lost but what caching costs."""

import io
import json

import pytest
from rich.console import Console
from tiny_engine import event, item, tiny_model, tiny_settings
from tiny_model import TEMPLATE

from rcjax.catalog import Catalogue, User
from rcjax.catalog.holdout import NextItem
from rcjax.catalog.jsonl import write_catalogue
from rcjax.config import (
    ArmSettings,
    CatalogueSettings,
    ShapeSettings,
    SnapshotSettings,
    TeacherSettings,
    TrainSettings,
)
from rcjax.evaluation import evaluation as evaluating
from rcjax.evaluation.command import run_eval
from rcjax.evaluation.evaluation import EvalOptions
from rcjax.prompt import Layout, Reuse, Scoring

NUM_REQUESTS = 6
ANCHOR = {"scoring": Scoring.ANCHOR}
ARMS = {
    "corrected": ArmSettings(selection="full", **ANCHOR),
    "trusting": ArmSettings(**ANCHOR),
    "parallel": ArmSettings(layout=Layout.PARALLEL, **ANCHOR),
}


@pytest.fixture
def ask(tmp_path, monkeypatch):
    """`rcjax eval --teacher`, both models being the tiny one."""
    users = {f"u{n}": User(f"u{n}", tuple(event((5 * n + k) % 20) for k in range(4))) for n in range(NUM_REQUESTS)}
    write_catalogue(Catalogue({f"i{n}": item(n) for n in range(20)}, users), tmp_path)
    loaded = []

    def model_of(settings):
        loaded.append((settings.model, settings.adapter, settings.template))
        return tiny_model()

    monkeypatch.setattr(evaluating, "model_of", model_of)
    settings = tiny_settings(
        tmp_path,
        arms=ARMS,
        default_arm="parallel",
        shapes=ShapeSettings(rank=((160, 64),), build=((128, 8),)),
        catalogue=CatalogueSettings(format="jsonl", paths={"folder": tmp_path}),
        adapter="own-lora",
        snapshot=SnapshotSettings(where=str(tmp_path / "snapshots"), on_stop=True),
        train=TrainSettings(teacher=TeacherSettings(scoring=Scoring.ANCHOR, template=str(tmp_path / "its.yaml"))),
    )
    (tmp_path / "its.yaml").write_text(TEMPLATE, encoding="utf-8")
    student = (settings.model, "own-lora", settings.template)
    task = NextItem(history_len=2, num_candidates=4)

    def run(gate=None, arms=(), train=settings.train):
        loaded.clear()
        asked = settings.model_copy(update={"train": train})
        to = Console(file=io.StringIO(), width=110)
        options = EvalOptions(NUM_REQUESTS, arms, task, "all", teacher="its-folder", teacher_adapter="its-lora")
        passed = run_eval(to, asked, options, json_file=tmp_path / "e.json", plot_file=tmp_path / "e.png", gate=gate)
        assert not (tmp_path / "snapshots").exists(), "an evaluation is no deployment"
        template = train.teacher.template if train.teacher else settings.template
        assert set(loaded) == {("its-folder", "its-lora", template), student}
        return passed, to.file.getvalue(), json.loads((tmp_path / "e.json").read_text())

    return run


def test_arms_are_compared_with_the_teacher_and_the_gate_judges_the_students(ask):
    passed, said, found = ask(gate=0.001)
    arms = found["arms"]
    assert list(arms) == ["teacher", "undistilled none", "undistilled full", "corrected", "trusting", "parallel"]
    assert [arm["reference"] for arm in arms.values()] == [None, *["teacher"] * 5]
    for exact in ("undistilled full", "corrected"):
        assert arms[exact]["fidelity"]["max_score_difference"] < 1e-4
        assert arms[exact]["differences"]["ndcg_at_10"]["value"] == 0
    assert arms["trusting"]["fidelity"]["max_score_difference"] > 0.01
    assert arms["trusting"]["fidelity"] == pytest.approx(arms["undistilled none"]["fidelity"])
    assert arms["teacher"]["settings"] == {
        "layout": "sequential",
        "scoring": "anchor",
        "reuse": "none",
        "selection": "none",
        "history": "exact",
    }
    assert found["teacher"]["default_arm"] == "teacher"
    assert not passed
    assert "gate failed: parallel against teacher" in said
    assert "undistilled none against teacher: NDCG@10" not in said, "the teacher's own arms are for nobody to serve"
    bias = arms["teacher"]["position_bias"]
    assert 0 <= bias["top1_agreement"] <= 1
    assert f"itself in another order of the candidates: same top 1 {bias['top1_agreement']:.1%}" in " ".join(
        said.split()
    )
    assert arms["parallel"]["position_bias"] is None
    assert "difference to the teacher" in said


def test_a_gate_that_all_students_pass(ask):
    passed, said, found = ask(gate=0.001, arms=("corrected",))
    assert passed
    assert "gate passed: 1 arm within ±0.001 of the teacher" in said
    assert list(found["arms"]) == ["teacher", "undistilled none", "undistilled full", "corrected"]


def test_settings_that_do_not_say_how_the_teacher_was_trained_are_told_of(ask):
    warning = "no train.teacher, so the teacher is asked for a label"
    _, said, found = ask(arms=("trusting",), train=TrainSettings())
    assert warning in " ".join(said.split())
    assert found["arms"]["teacher"]["settings"]["scoring"] == "label"
    _, said, _ = ask(arms=("trusting",))
    assert warning not in " ".join(said.split())


def test_an_arm_with_a_name_of_the_teachers_is_refused(ask, monkeypatch):
    monkeypatch.setitem(ARMS, "teacher", ArmSettings(reuse=Reuse.NONE))
    with pytest.raises(ValueError, match="arm 'teacher' has the name of one of the teacher's"):
        evaluating.against_teacher({"teacher": ARMS["teacher"]}, ARMS)

"""`rcjax train` from files to a folder that the engine serves."""

import gc
import io
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml
from event_reader import scalars_of
from rich.console import Console
from tiny_engine import ARMS, recommend, tiny_settings
from tiny_model import TEMPLATE, tiny_model
from typer.testing import CliRunner

from rcjax.cache.placement import RequestLog
from rcjax.catalog import EmbeddedWorld, Event, User
from rcjax.catalog.jsonl import write_catalogue
from rcjax.catalog.types import Catalogue, Item
from rcjax.commands.app import app
from rcjax.config import ShapeSettings, load_settings
from rcjax.model.export import export_folder
from rcjax.model.spec import load_model
from rcjax.serving.startup import start_engine
from rcjax.training.distillation import distilled_sources
from rcjax.training.examples import EmbeddedExamples
from rcjax.training.sources import example_sources, sources_of
from rcjax.training.teacher import Teacher

# Of this seed both passes are of one shape, so that one program takes them.
STEPS = {"num_steps": 2, "batch_size": 4, "num_candidates": 4, "num_validation": 4, "validate_every": 1, "seed": 1}
NEW_MODEL = {"num_layers": 1, "d_model": 16, "num_heads": 2, "num_kv_heads": 1, "d_ff": 24}


def start():
    """The tiny model without biases, which no family has together with its norms of queries and keys."""
    model = tiny_model()
    layers = {name: x for name, x in model.params["layers"].items() if not name.endswith("bias")}
    return replace(model.config, qkv_bias=False), {**model.params, "layers": layers}, model.tokenizer


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    return write_files(tmp_path_factory.mktemp("train"))


def write_files(folder: Path) -> Path:
    """A tiny checkpoint, its template, and 60 users, each with a first item of their own."""
    export_folder(folder / "start", *start())
    (folder / "tiny.yaml").write_text(TEMPLATE, encoding="utf-8")
    items = {f"i{n}": Item(f"i{n}", f"thing {n:02d}", brand=f"b{n % 4}") for n in range(60)}
    users = {f"u{n}": User(f"u{n}", tuple(_event((n + k) % 60) for k in range(4))) for n in range(60)}
    (folder / "data").mkdir()
    write_catalogue(Catalogue(items, users), folder / "data")
    return folder


def _event(number: int) -> Event:
    return Event(f"i{number}", f"thing {number:02d}", rating=4.0)


def config(files: Path, path: Path, catalogue: dict | None = None, **train) -> Path:
    settings = {
        "model": str(files / "start"),
        "template": str(files / "tiny.yaml"),
        "catalogue": catalogue or {"format": "jsonl", "paths": {"folder": str(files / "data")}},
        "compilation_cache": str(files / "xla"),
        "train": STEPS | train,
    }
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


def train(*args: object) -> str:
    result = CliRunner().invoke(app, ["train", *map(str, args)])
    return result.output if result.exit_code == 0 else f"exit {result.exit_code}: {result.output}{result.exception!r}"


@pytest.fixture(scope="module")
def finished(files) -> tuple[Path, Path, str]:
    """A run: its settings, its folder, and what was said."""
    settings, out = config(files, files / "train.yaml"), files / "run"
    return settings, out, train("--config", settings, "--out", out, "--tensorboard", files / "events")


def test_what_is_trained_is_served_and_a_second_call_has_nothing_to_do(files, finished, tmp_path):
    settings, out, said = finished
    assert str(out / "model") in said.replace("\n", "")
    curve = (out / "curve.jsonl").read_text()
    assert [json.loads(line)["step"] for line in curve.splitlines()] == [1, 2]
    trained, (_, before, _) = load_model(str(out / "model")), start()
    moved = np.abs(np.asarray(trained.params["layers"]["q_proj"]) - np.asarray(before["layers"]["q_proj"]))
    assert 0 < moved.max() < 0.01
    arm = "parallel_anchor_blocks"
    shapes = ShapeSettings(rank=((128, 64),), build=((128, 8),), generate=((1, 8),))
    served = tiny_settings(tmp_path, model=str(out / "model"), arms={arm: ARMS[arm]}, default_arm=arm, shapes=shapes)
    engine = start_engine(served)
    try:
        engine.put_user(User("u", (_event(1),)))
        assert len(recommend(engine, [Item("i1", "thing 01"), Item("i2", "thing 02")]).ranking) == 2
    finally:
        engine.close()
    assert "exit" not in train("--config", settings, "--out", out)
    assert (out / "curve.jsonl").read_text() == curve
    other = train("--config", config(files, tmp_path / "other.yaml", seed=2), "--out", out)
    assert other.startswith("exit")
    assert "holds a run of other settings" in other.replace("\n", " ")


@pytest.fixture(scope="module")
def log(files) -> Path:
    """300 requests of three or four candidates."""
    log, rng = RequestLog(), np.random.default_rng(0)
    for n in range(300):
        log.append([f"i{i}" for i in rng.permutation(60)[: 3 + n % 2]], f"u{n % 60}")
    log.save(files / "log.jsonl")
    return files / "log.jsonl"


def test_a_checkpoint_teaches_itself_from_a_log_of_requests(files, log, tmp_path, monkeypatch):
    """No target anywhere: the student's rankings come nearer to the teacher's, and the teacher is asked once."""
    learning = {"num_steps": 40, "batch_size": 4, "validate_every": 10, "num_validation": 4, "learning_rate": 1e-2}
    teacher = {
        "scoring": "anchor",
        "requests": log.name,
        "num_orders": 2,
        "num_requests": 16,
        "scores": str(tmp_path / "scores"),
    }
    settings = config(files, files / "distil.yaml", **learning, warmup_steps=2, teacher=teacher)
    said = train("--config", settings, "--out", tmp_path / "run")
    assert "the teacher against itself in another order of candidates, 4 validation requests" in " ".join(said.split())
    points = [json.loads(line) for line in (tmp_path / "run" / "curve.jsonl").read_text().splitlines()]
    assert [set(point) for point in points] == [
        {"step", "train_s", "loss", "validation_kl_nats", "validation_top1_agreement"}
    ] * 4
    assert 0 <= points[-1]["loss"] < 0.85 * points[0]["loss"]

    def asked(*args):
        raise AssertionError("all that it says is on disk")

    monkeypatch.setattr(Teacher, "scores", asked)
    other = config(files, files / "other.yaml", **learning, warmup_steps=3, teacher=teacher)
    assert "exit" not in train("--config", other, "--out", tmp_path / "other", "--steps", 1)


def test_the_teacher_is_gone_from_memory_once_it_has_said_all(files, log, tmp_path):
    teacher = {"requests": log.name, "num_requests": 16}
    path = config(files, files / "memory.yaml", dtype="bfloat16", num_validation=4, teacher=teacher)
    settings = load_settings(path)
    model = load_model(settings.model)
    sources = sources_of(settings, settings.train, print)
    before = live_bytes()
    distilled_sources(Console(file=io.StringIO()), settings, settings.train, model, sources, tmp_path, print)
    weights = sum(x.nbytes for x in jax.tree.leaves(model.params))
    assert live_bytes() - before < weights / 20


def live_bytes() -> int:
    gc.collect()
    return sum(x.nbytes for x in jax.live_arrays())


def test_distil_without_a_section_is_one_of_defaults_and_the_embedded_shop_has_no_log(files, log, tmp_path):
    shop = {"format": "embedded"}
    settings = config(files, files / "shop.yaml", shop, teacher={"requests": log.name})
    said = " ".join(train("--config", settings, "--out", tmp_path / "run").split())
    assert "of the embedded shop only test users are known" in said
    settings = config(files, files / "plain.yaml", num_steps=1)
    assert "exit" not in train("--config", settings, "--out", tmp_path / "run", "--distil")
    identity = json.loads((tmp_path / "run" / "run.json").read_text())
    assert identity["train"]["teacher"] == {
        "scoring": "label",
        "num_orders": 1,
        "num_requests": None,
        "label_share": 0.0,
    }
    assert identity["teacher_template"] == identity["template"]
    assert json.loads((tmp_path / "run" / "teacher" / "teacher.json").read_text())["seed"] == 1


def test_runs_from_before_there_were_teachers_go_on(files, finished):
    identity = json.loads((finished[1] / "run.json").read_text())
    assert not {"selection", "teacher"} & identity["train"].keys()
    assert set(identity) == {"model", "template", "catalogue", "train"}


def test_more_requests_than_there_are_cannot_be_taught(files, log, tmp_path):
    (files / "short.jsonl").write_text('{"user_id": "u1", "candidates": ["i1", "i2"]}\n')
    settings = config(files, files / "short.yaml", teacher={"requests": "short.jsonl"})
    assert "none of the 1 requests is one of a validation user" in train(
        "--config", settings, "--out", tmp_path / "run"
    )
    settings = config(files, files / "short.yaml", teacher={"requests": log.name, "num_requests": 1000})
    assert "train.teacher.num_requests=1,000 exceeds" in train("--config", settings, "--out", tmp_path / "run")


def test_tensorboard_shows_the_curve(files, finished):
    _, out, _ = finished
    points = [json.loads(line) for line in (out / "curve.jsonl").read_text().splitlines()]
    shown = scalars_of(files / "events")
    assert set(shown) == {"train/loss", "train/learning_rate", "train/seconds", "validation/ndcg_at_10"}
    for tag, name in {"train/loss": "loss", "validation/ndcg_at_10": "validation_ndcg_at_10"}.items():
        assert [step for step, _ in shown[tag]] == [1, 2]
        assert [value for _, value in shown[tag]] == pytest.approx([point[name] for point in points])


def test_a_run_goes_on_where_its_data_was_moved(files, finished, tmp_path, monkeypatch):
    _, out, said = finished
    assert "exit" not in said
    curve = (out / "curve.jsonl").read_bytes()
    shutil.copytree(files / "data", tmp_path / "moved" / "copy")
    moved = {"format": "jsonl", "paths": {"folder": "copy"}, "on_error": "skip"}
    there = config(files, tmp_path / "moved" / "train.yaml", moved)
    monkeypatch.chdir(tmp_path / "moved")
    assert "exit" not in train("--config", there, "--out", out)
    assert (out / "curve.jsonl").read_bytes() == curve
    other = config(files, tmp_path / "moved" / "train.yaml", {**moved, "seed": 1})
    assert "holds a run of other settings" in train("--config", other, "--out", out).replace("\n", " ")


def test_records_that_are_left_out_are_told(files, tmp_path):
    shutil.copytree(files / "data", tmp_path / "data")
    (tmp_path / "data" / "requests.jsonl.gz").unlink()
    (tmp_path / "data" / "requests.jsonl").write_text('{"user_id": "u1"}\n')
    catalogue = {"format": "jsonl", "paths": {"folder": "data"}}
    settings = load_settings(config(files, tmp_path / "t.yaml", {**catalogue, "on_error": "skip"}))
    told: list[str] = []
    sources_of(settings, settings.train, told.append)
    assert told[0] == "left out 1 record with an error:"
    assert "requests.jsonl:1: field 'candidates': missing" in told[1]


@pytest.mark.parametrize(
    "changes", [{"num_layers": 2, "layout": "sequential", "scoring": "label"}, {"new_model": NEW_MODEL}]
)
def test_starts(files, tmp_path, monkeypatch, changes):
    """With a learning rate of next to nothing, what is exported is what training started from."""
    one = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *_: one)  # another test trains on all eight
    out = tmp_path / "run"
    settings = config(files, tmp_path / "train.yaml", learning_rate=1e-12, num_steps=1, **changes)
    assert "exit" not in train("--config", settings, "--out", out)
    found, (_, checkpoint, _) = load_model(str(out / "model")), start()
    ours, theirs = found.params["layers"]["q_proj"], checkpoint["layers"]["q_proj"]
    if "new_model" in changes:
        assert (found.config.num_layers, found.config.d_model, found.config.d_ff) == (1, 16, 24)
        assert not np.allclose(ours[0], theirs[0, :16, :2, :8], atol=0.01)
    else:
        np.testing.assert_allclose(ours, theirs[:2], atol=1e-6)


def test_training_and_validation_have_different_users(files, tmp_path):
    for catalogue in (None, {"format": "embedded"}):
        settings = load_settings(config(files, tmp_path / "t.yaml", catalogue))
        histories = [
            {example.history for example in source.draw(np.random.default_rng(0), 200)}
            for source in example_sources(settings, settings.train)
        ]
        assert all(histories)
        assert not histories[0] & histories[1]


def test_the_embedded_shop_is_a_source(files, tmp_path):
    changes = {"negative_pool": 30, "choices_per_request": 3, "requests_per_user": 2}
    settings = load_settings(config(files, tmp_path / "t.yaml", {"format": "embedded"}, **changes))
    source, validation = example_sources(settings, settings.train)
    examples = source.draw(np.random.default_rng(0), 4)
    assert [len(example.choices) for example in examples] == [3] * 4
    assert examples[0].history == examples[1].history != examples[2].history
    assert [len(e.choices) for e in validation.draw(np.random.default_rng(0), 2)] == [1, 1]


def test_the_embedded_shop_asks_for_items_of_short_histories_too(files, tmp_path):
    changes = {"recall_share": 0.5, "max_events": 4, "negative_pool": 30, "choices_per_request": 3}
    settings = load_settings(config(files, tmp_path / "t.yaml", {"format": "embedded"}, **changes))
    source, validation = example_sources(settings, settings.train)
    examples = source.draw(np.random.default_rng(0), 60)
    recalled = [example for example in examples if len(example.choices) == 1]
    assert 20 < len(recalled) < 40
    for example in examples:
        assert len(example.history) == 4
        owned = {event.item_id for event in example.history}
        ids = [item.item_id for item in example.candidates]
        assert len(set(ids)) == len(ids) == settings.train.num_candidates
        asked = {ids[example.choices[0]]} if len(example.choices) == 1 else set()
        assert owned & set(ids) == asked
    whole = EmbeddedExamples(EmbeddedWorld(0), "validation", settings.train.num_candidates)
    for short, long in zip(
        validation.draw(np.random.default_rng(1), 5), whole.draw(np.random.default_rng(1), 5), strict=True
    ):
        assert short.history == long.history[-4:]
        assert (short.candidates, short.choices) == (long.candidates, long.choices)


def test_tensorboard_without_its_package_is_said_before_anything_runs(files, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)  # as Python marks what cannot be imported
    settings = config(files, tmp_path / "train.yaml")
    said = train("--config", settings, "--out", tmp_path / "run", "--tensorboard", tmp_path / "events")
    assert said.startswith("exit 1: error: --tensorboard needs tensorboardX; install rcjax[tensorboard]")
    assert [path.name for path in tmp_path.iterdir()] == ["train.yaml"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clear_histories": {"num_steps": 1, "fading_steps": 1}}, "clear_histories is for the embedded shop"),
        ({"choices_per_request": 20}, "leaves no negative among num_candidates="),
        ({"num_layers": 9}, "exceeds the checkpoint's num_layers=3"),
        ({"new_model": {**NEW_MODEL, "d_model": 15}}, "d_model=15 must be a multiple"),
    ],
)
def test_what_cannot_be_trained_is_said(files, tmp_path, changes, message):
    said = train("--config", config(files, tmp_path / "train.yaml", **changes), "--out", tmp_path / "run")
    assert said.startswith("exit")
    assert message in " ".join(said.split())

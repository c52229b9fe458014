"""What LoRA training leaves: an adapter that, on the base, ranks as the merged model does."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file
from test_command import NEW_MODEL, STEPS, start, train, write_files
from tiny_engine import ARMS, scores, tiny_model, tiny_settings

from rcjax.catalog import Event, User
from rcjax.catalog.types import Item
from rcjax.config import Settings, ShapeSettings, TrainSettings
from rcjax.model.adapter import load_adapter
from rcjax.model.export import export_folder
from rcjax.model.load_error import ModelLoadError
from rcjax.model.spec import load_config, load_model
from rcjax.prompt.template import load_template
from rcjax.serving.startup import start_engine
from rcjax.training.adapter_folder import adapter_folder

ARM = "parallel_anchor_blocks"
SHAPES = ShapeSettings(rank=((128, 64),), build=((128, 8),), generate=((1, 8),))
ITEMS = [Item(f"i{n}", f"thing {n:02d}") for n in range(3)]
FAST = {"lora": {"rank": 2, "alpha": 4}, "learning_rate": 0.03, "warmup_steps": 0}


def run(files: Path, out: Path, adapter: Path | None = None, **changes: object) -> str:
    """Trains from the start's checkpoint into `out`; what was said."""
    settings = {
        "model": str(files / "start"),
        "adapter": None if adapter is None else str(adapter),
        "template": str(files / "tiny.yaml"),
        "catalogue": {"format": "jsonl", "paths": {"folder": str(files / "data")}},
        "compilation_cache": str(files / "xla"),
        "train": STEPS | FAST | changes,
    }
    path = out.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return train("--config", path, "--out", out)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    return write_files(tmp_path_factory.mktemp("lora"))


@pytest.fixture(scope="module")
def first(files: Path) -> Path:
    said = run(files, files / "first")
    assert not said.startswith("exit")
    assert str(files / "first" / "adapter") in said.replace("\n", "")
    return files / "first"


def served(folder: Path, **changed: object) -> tuple[str, dict[str, float]]:
    """The model's name, and what it scores."""
    settings = tiny_settings(folder, arms={ARM: ARMS[ARM]}, default_arm=ARM, shapes=SHAPES, **changed)
    with start_engine(settings) as engine:
        engine.put_user(User("u", (Event("h", "thing 07", rating=4.0),)))
        return engine.info().model, scores(engine, ITEMS)


def test_an_adapter_in_half_the_bytes_is_the_same_run(files, first, tmp_path):
    run(files, tmp_path / "half", lora=FAST["lora"] | {"dtype": "bfloat16"})
    half, whole = (folder / "adapter" for folder in (tmp_path / "half", first))
    assert (tmp_path / "half" / "run.json").read_text() == (first / "run.json").read_text()
    factors = [load_file(folder / "adapter_model.safetensors") for folder in (half, whole)]
    for name, factor in factors[1].items():
        assert factors[0][name].dtype == ml_dtypes.bfloat16
        np.testing.assert_array_equal(factors[0][name], factor.astype(ml_dtypes.bfloat16))


def test_more_layers_than_an_adapter_leaves_say_what_to_do(files, first, tmp_path):
    said = run(files, tmp_path / "more", first / "adapter", num_layers=9)
    assert "exceeds the checkpoint's num_layers=3; lower it, or set adapter: null for the whole checkpoint" in " ".join(
        said.split()
    )


def test_base_and_adapter_rank_as_the_merged_model(files, first, tmp_path, caplog):
    base = str(files / "start")
    with caplog.at_level(logging.WARNING, "rcjax"):
        name, found = served(tmp_path, model=base, adapter=str(first / "adapter"))
    told = [record.getMessage() for record in caplog.records]
    assert not [line for line in told if "adapter" in line]
    _, merged = served(tmp_path, model=str(first / "model"))
    _, untrained = served(tmp_path, model=base)
    assert name == "start + adapter"
    assert found == {item: pytest.approx(score, abs=1e-5) for item, score in merged.items()}
    assert max(abs(found[item] - score) for item, score in untrained.items()) > 0.01
    origin = json.loads((first / "adapter" / "rcjax.json").read_text())
    assert (origin["template"], origin["layout"], origin["scoring"]) == ("tiny v1", "parallel", "anchor")
    assert origin["base"] == load_model(base).base_fingerprint


def test_an_adapter_for_the_first_layers_takes_no_others(files, tmp_path):
    """Of three layers two: the model that is served on the base is the one that was trained."""
    assert not run(files, tmp_path / "short", num_layers=2, num_steps=1, validate_every=1).startswith("exit")
    base, adapter = str(files / "start"), str(tmp_path / "short" / "adapter")
    merged, found = load_model(str(tmp_path / "short" / "model")), load_model(base, adapter=adapter)
    assert found.name == "start (2 layers) + adapter"
    assert found.config == merged.config == load_config(base, adapter)
    assert found.base_fingerprint == load_model(base).base_fingerprint
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5), found.params, merged.params)
    said = json.loads((tmp_path / "short" / "adapter" / "adapter_config.json").read_text())
    assert (said["layers_to_transform"], said["layers_pattern"]) == ([0, 1], "layers")
    shorter = replace(load_config(base), num_layers=1)
    with pytest.raises(ModelLoadError, match="is for a base of 2 layers; this one has 1"):
        load_adapter(adapter, shorter)


def test_an_adapter_that_is_trained_on_is_one_adapter_of_the_same_base(files, first, tmp_path):
    """Ranks add up: 2 of the first run and 2 of the second."""
    said = run(files, tmp_path / "second", first / "adapter", num_steps=1, validate_every=1)
    assert not said.startswith("exit")
    base = str(files / "start")
    both = load_model(base, adapter=str(tmp_path / "second" / "adapter"))
    assert both.adapter.rank == 4
    merged, first_alone = load_model(str(tmp_path / "second" / "model")), load_model(str(first / "model"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5), both.params, merged.params)
    moved = np.abs(np.asarray(merged.params["layers"]["up_proj"] - first_alone.params["layers"]["up_proj"])).max()
    assert moved > 1e-3
    assert run(files, tmp_path / "second", num_steps=1, validate_every=1).startswith("exit")  # of another start


@pytest.mark.parametrize(
    ("changes", "is_written"),
    [
        ({}, True),
        ({"num_layers": 3}, True),
        ({"num_layers": 1}, True),
        ({"new_model": NEW_MODEL}, False),
        ({"lora": None}, False),
    ],
)
def test_only_what_starts_from_the_checkpoint_leaves_an_adapter(changes, is_written):
    """The tiny model has three layers."""
    model = replace(tiny_model(), base_fingerprint="a1b2")
    train = TrainSettings(**STEPS | FAST | changes)
    found = adapter_folder(Settings(), train, model, load_template("shop"))
    assert (found is not None) == is_written


def test_what_an_adapter_is_not_for_is_told_at_start(files, first, tmp_path, caplog):
    config, params, tokenizer = start()
    params["final_norm"] = params["final_norm"] * 2
    export_folder(tmp_path / "other", config, params, tokenizer)
    arm = "sequential_label_none"
    settings = tiny_settings(
        tmp_path,
        model=str(tmp_path / "other"),
        adapter=str(first / "adapter"),
        arms={arm: ARMS[arm]},
        default_arm=arm,
        shapes=SHAPES,
    )
    template = Path(settings.template)
    template.write_text(template.read_text().replace("name: tiny", "name: other"))
    with caplog.at_level(logging.WARNING, "rcjax"), start_engine(settings):
        pass
    lines = [record.getMessage() for record in caplog.records if "adapter" in record.getMessage()]
    assert len(lines) == 3
    assert "template tiny v1, and the settings' is other v1" in lines[0]
    assert "for layout parallel with scoring anchor" in lines[1]
    assert "another base" in lines[2]

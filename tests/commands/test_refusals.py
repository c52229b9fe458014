"""Every command on settings, files and checkpoints that are no good: lines on stderr, no traceback, and exit code 1."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from full_disk import full_disk
from tiny_engine import TEMPLATE, tiny_model
from typer.testing import CliRunner

from rcjax.commands.app import app
from rcjax.config import Settings
from rcjax.evaluation import command as eval_command
from rcjax.model.export import export_folder
from rcjax.serving import snapshots
from rcjax.training import command as train_command

NOBODY = "127.0.0.1:1"
COMMANDS = {
    "demo": ["demo"],
    "serve": ["serve", "--port", "0", "--admin-port", "0"],
    "build": ["build", "--out", "snapshot"],
    "rank": ["rank", "--user", "u", "--candidates", "a", "--target", NOBODY],
    "bench": ["bench"],
    "bench a server": ["bench", "--target", NOBODY, "--rate", "1", "--timeout-s", "0.1"],
    "train": ["train", "--out", "run"],
    "eval": ["eval"],
}
LOADING_A_MODEL = sorted(COMMANDS.keys() - {"rank", "bench a server"})
LOADING_A_CATALOGUE = sorted(COMMANDS.keys() - {"demo"})
LOADING_A_MODEL_FIRST = {"train", "eval"}


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def said(name: str, *args: object) -> list[str]:
    """The lines on stderr of a command that fails, as it has to."""
    result = CliRunner().invoke(app, [*COMMANDS[name], *map(str, args)])
    assert result.exit_code == 1, (result.output, result.exception)
    assert isinstance(result.exception, SystemExit)  # not what a traceback would be printed of
    assert "Traceback" not in result.output
    return result.stderr.splitlines()


def write(path: Path, **settings: object) -> Path:
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", COMMANDS)
def test_settings_that_are_wrong(name, tmp_path):
    config = write(tmp_path / "mine.yaml", limits={"max_candidates": 0}, modle="x")
    assert said(name, "--config", config) == [
        f"error: {config}: limits.max_candidates=0: must be greater than or equal to 1",
        f"error: {config}: modle is not known here; there are {', '.join(Settings.model_fields)}",
    ]


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("kind", ["missing", "no YAML", "not UTF-8", "a folder"])
def test_a_settings_file_that_cannot_be_read(name, kind, tmp_path):
    config = tmp_path / "mine.yaml"
    if kind == "a folder":
        config.mkdir()
    elif kind != "missing":
        config.write_bytes(b"a: [" if kind == "no YAML" else b"a: \xff")
    (line,) = said(name, "--config", config)
    assert line.startswith(f"error: {config}")


def checkpoint(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama", "hidden_si')
    return folder


@pytest.mark.parametrize("name", LOADING_A_MODEL)
@pytest.mark.parametrize("kind", ["cut", "missing", "no GGUF"])
def test_a_checkpoint_that_cannot_be_loaded(name, kind, tmp_path):
    model = checkpoint(tmp_path / "model")
    if kind == "missing":
        model = tmp_path / "none"
    elif kind == "no GGUF":
        model = tmp_path / "model.gguf"
        model.write_bytes(b"GGUF, but no more than that")
    (line,) = said(name, "--config", write(tmp_path / "mine.yaml", model=model.name))
    assert line.startswith("error: ")
    assert str(model) in line


@pytest.mark.parametrize("name", ["train", "eval"])
def test_a_checkpoint_of_the_command_line_starts_in_the_working_directory(name, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    model = checkpoint(tmp_path / "model")
    config = write(tmp_path / "elsewhere" / "mine.yaml", model="none")
    (line,) = said(name, "--config", config, "--model", "model")
    assert line.startswith(f"error: {model.name}/config.json")


@pytest.fixture(scope="module")
def tiny_checkpoint(tmp_path_factory) -> Path:
    """The tiny model without biases, which no family has together with its norms of queries and keys."""
    folder, model = tmp_path_factory.mktemp("checkpoint"), tiny_model()
    layers = {name: x for name, x in model.params["layers"].items() if not name.endswith("bias")}
    export_folder(folder, replace(model.config, qkv_bias=False), {**model.params, "layers": layers}, model.tokenizer)
    return folder


@pytest.mark.parametrize("name", LOADING_A_MODEL)
def test_an_adapter_that_cannot_be_loaded(name, tmp_path, tiny_checkpoint):
    """Of the settings, where the path starts at their file, or of the command line instead."""
    config = write(tmp_path / "mine.yaml", model=str(tiny_checkpoint), adapter="lora")
    (line,) = said(name, "--config", config)
    assert line.startswith(f"error: adapter '{tmp_path / 'lora'}' is no existing folder; give a folder, a Hub id")
    (tmp_path / "dora").mkdir()
    (tmp_path / "dora" / "adapter_config.json").write_text('{"peft_type": "LORA", "use_dora": true}')
    (line,) = said(name, "--config", config, "--adapter", str(tmp_path / "dora"))
    assert line.startswith(f"error: {tmp_path / 'dora' / 'adapter_config.json'}: use_dora=True is not supported")


@pytest.mark.parametrize("name", LOADING_A_MODEL)
@pytest.mark.parametrize("kind", ["missing", "wrong"])
def test_a_template_that_cannot_be_read(name, kind, tmp_path, tiny_checkpoint):
    template = tmp_path / "template.yaml"
    if kind == "wrong":
        template.write_text("name: x")
    config = write(tmp_path / "mine.yaml", model=str(tiny_checkpoint), template=template.name)
    lines = said(name, "--config", config)
    if name == "serve":  # whose log is on stderr too
        logged, *lines = lines
        assert re.match(rf"[0-9:.]{{12}} INFO    {tiny_checkpoint.name}: weights in ", logged)
    assert all(line.startswith(f"error: {template}: ") for line in lines)
    assert any("No such file" in line or "version is missing" in line for line in lines)


def shop(folder: Path, *lines: str) -> dict[str, object]:
    (folder / "items.jsonl").write_text("".join(f"{line}\n" for line in lines))
    (folder / "users.jsonl").write_text('{"user_id": "u"}\n')
    (folder / "requests.jsonl").write_text('{"user_id": "u", "candidates": ["a"]}\n')
    return {"format": "jsonl", "paths": {"folder": "."}}


GOOD, BAD = json.dumps({"item_id": "a", "title": "A"}), json.dumps({"title": "B"})


@pytest.mark.parametrize("name", sorted(set(LOADING_A_CATALOGUE) - LOADING_A_MODEL_FIRST))
def test_a_bad_record_stops_a_load_or_is_left_out_and_told(name, tmp_path):
    catalogue = shop(tmp_path, GOOD, *[BAD] * 12)
    config = write(tmp_path / "mine.yaml", model="none", catalogue=catalogue)
    problem = f"{tmp_path}/items.jsonl:2: field 'item_id': missing"
    assert said(name, "--config", config) == [f"error: {problem}"]
    skipping = write(tmp_path / "skipping.yaml", model="none", catalogue={**catalogue, "on_error": "skip"})
    assert said(name, "--config", skipping, "--on-error", "stop") == [f"error: {problem}"]
    for args in (["--config", config, "--on-error", "skip"], ["--config", skipping]):
        result = CliRunner().invoke(app, [*COMMANDS[name], *map(str, args)])
        told = [line.strip() for line in result.output.splitlines()]
        first = told.index("left out 12 records with an error, the first 10 of them:")
        assert told[first + 1 : first + 11] == [
            f"{tmp_path}/items.jsonl:{line}: field 'item_id': missing" for line in range(2, 12)
        ]
        assert "items.jsonl" not in result.stderr.splitlines()[-1]  # what ends it is the model or the server


@pytest.mark.parametrize("name", sorted(LOADING_A_MODEL_FIRST))
def test_on_error_reaches_what_loads_the_model_first(name, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(train_command, "run_training", lambda console, settings, *rest: seen.append(settings))
    monkeypatch.setattr(eval_command, "run_eval", lambda console, settings, *rest, **files: seen.append(settings) or 1)
    assert CliRunner().invoke(app, [*COMMANDS[name], "--on-error", "skip"]).exit_code == 0
    assert [settings.catalogue.on_error for settings in seen] == ["skip"]


@pytest.mark.parametrize("name", LOADING_A_CATALOGUE)
def test_on_error_is_stop_or_skip(name):
    result = CliRunner().invoke(app, [*COMMANDS[name], "--on-error", "ignore"])
    assert result.exit_code == 2
    assert "--on-error" in result.output


@pytest.mark.parametrize(
    ("name", "option"), [("build", "--out"), ("train", "--out"), ("bench", "--json"), ("eval", "--json")]
)
def test_a_place_that_cannot_be_written_is_told_before_what_takes_long(name, option, tmp_path):
    (tmp_path / "file").write_text("")
    config = write(tmp_path / "mine.yaml", model="none")  # which is what would be told later
    (line,) = said(name, "--config", config, option, tmp_path / "file" / "out")
    assert line.startswith(f"error: {tmp_path}/file")
    assert line.endswith("cannot be written: Not a directory; see to room and permissions there, or name another place")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # Orbax's threads
def test_a_full_disk_is_one_line(tmp_path, tiny_checkpoint, monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)  # as outside of pytest
    (tmp_path / "tiny.yaml").write_text(TEMPLATE)
    settings = {
        "model": str(tiny_checkpoint),
        "template": "tiny.yaml",
        "catalogue": shop(tmp_path, GOOD),
        "cache": {"page_tokens": 8, "pool_bytes": 2**20},
        "limits": {"max_candidates": 4, "max_item_tokens": 40, "max_history_tokens": 96},
        "arms": {"fast": {"layout": "parallel", "scoring": "anchor"}},
        "default_arm": "fast",
        "shapes": {"rank": [[64, 16]], "build": [[96, 8]]},
    }
    config = write(tmp_path / "mine.yaml", **settings)
    save = snapshots.save

    def save_on_a_full_disk(*args):
        with full_disk(1000):
            return save(*args)

    monkeypatch.setattr(snapshots, "save", save_on_a_full_disk)
    lines = [re.sub(r"segments/\w+", "segments/*", line) for line in said("build", "--config", config)]
    assert lines == [
        f"error: {tmp_path}/snapshot/segments/* cannot be written: File too large; see to room and permissions there, "
        "or name another place"
    ]
    assert not [path for path in (tmp_path / "snapshot").rglob("*") if path.is_file() and path.name != "lock"]


def test_what_the_command_line_says_of_training_must_go_with_the_settings(tmp_path):
    new = {"num_layers": 1, "d_model": 16, "num_heads": 2, "num_kv_heads": 1, "d_ff": 24}
    config = write(tmp_path / "mine.yaml", train={"new_model": new})
    assert said("train", "--config", config, "--num-layers", 1) == [
        "error: train: num_layers keeps layers of the checkpoint, new_model none: give one of them"
    ]


def test_a_loss_that_is_no_number_is_a_line(monkeypatch):
    def run_training(*args):
        raise FloatingPointError("the loss of pass 3 is nan; lower learning_rate")

    monkeypatch.setattr(train_command, "run_training", run_training)
    assert said("train") == ["error: the loss of pass 3 is nan; lower learning_rate"]

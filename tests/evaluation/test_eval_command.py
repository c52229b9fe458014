"""The command line of `rcjax eval`: its options reach the evaluation, and its exit codes say how it went."""

import pytest
from typer.testing import CliRunner

from rcjax.catalog.holdout import NextItem
from rcjax.catalog.negatives import Negatives
from rcjax.commands.app import app
from rcjax.config import Settings
from rcjax.evaluation import command
from rcjax.evaluation.evaluation import EvalOptions


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    return lambda *args: CliRunner().invoke(app, ["eval", *args])


@pytest.fixture
def calls(monkeypatch):
    """What the command asks for; the gate passes unless the tolerance is 0."""
    seen = []

    def run_eval(console, settings, options, **files):
        seen.append((settings, options, files))
        return files["gate"] != 0

    monkeypatch.setattr(command, "run_eval", run_eval)
    return seen


def test_defaults(run, calls):
    assert run().exit_code == 0
    ((settings, options, files),) = calls
    assert settings == Settings()
    assert options == EvalOptions()
    assert files == {"json_file": None, "plot_file": None, "event_folder": None, "gate": None}


def test_options_reach_the_evaluation(run, calls, tmp_path):
    arguments = "--model ./mine -n 7 --arms full,rcjax --split all --history-len 4 --candidates 9 --negatives uniform"
    more = f"--permutations 2 --seed 5 --gate 0.01 --json {tmp_path / 'e.json'} --plot {tmp_path / 'e.png'}"
    more += f" --adapter shop --tensorboard {tmp_path} --teacher ./theirs"
    assert run(*arguments.split(), *more.split()).exit_code == 0
    ((settings, options, files),) = calls
    assert settings == Settings(model="./mine", adapter="shop")
    assert options == EvalOptions(
        num_requests=7,
        arms=("full", "rcjax"),
        task=NextItem(4, 9, Negatives.UNIFORM),
        split="all",
        num_permutations=2,
        seed=5,
        teacher="./theirs",
    )
    named = {"json_file": tmp_path / "e.json", "plot_file": tmp_path / "e.png", "event_folder": tmp_path}
    assert files == {**named, "gate": 0.01}


def test_an_empty_adapter_is_none(run, calls, tmp_path):
    (tmp_path / "mine.yaml").write_text("adapter: lora")
    assert run("--config", str(tmp_path / "mine.yaml")).exit_code == 0
    assert run("--config", str(tmp_path / "mine.yaml"), "--adapter", "").exit_code == 0
    assert [settings.adapter for settings, *_ in calls] == [str(tmp_path / "lora"), None]


def test_a_gate_that_does_not_pass_is_exit_code_3(run, calls):
    assert run("--gate", "0").exit_code == 3
    assert "3 the gate of rcjax eval did not pass" in " ".join(CliRunner().invoke(app, ["--help"]).output.split())


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["-n", "0"], "--requests"),
        (["--gate", "-0.1"], "--gate"),
        (["--negatives", "all"], "--negatives"),
        (["--split", "some"], "--split"),
    ],
)
def test_wrong_usage(run, args, named):
    result = run(*args)
    assert result.exit_code == 2
    assert named in result.output


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["--arms", "fulll"], "fulll"),
        (["--json", "nowhere/e.json"], "nowhere"),
        (["--arms", "full", "--gate", "0.005"], "the gate has no arm to judge"),
    ],
)
def test_what_does_not_go_with_settings_or_files(run, args, named):
    result = run(*args)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert named in result.stderr

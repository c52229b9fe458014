"""The command line without a server: help, and errors that a newcomer can act on."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import rcjax
from rcjax.catalog import Catalogue
from rcjax.commands.app import app
from rcjax.config import Settings, load_settings, read_catalogue

COMMANDS = ("demo", "serve", "build", "snapshot", "restore", "rank", "bench", "train", "eval")
EMBEDDED = Path(__file__).parents[2] / "configs" / "embedded.yaml"


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    return lambda *args: CliRunner().invoke(app, list(args))


def test_help_names_the_commands(run):
    result = run("--help")
    assert result.exit_code == 0
    assert all(command in result.output for command in COMMANDS)
    assert "rcjax demo" in result.output


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("demo", ["--requests", "--html", "--config", "--adapter"]),
        ("serve", ["--config", "--host", "--port", "--admin-port", "--snapshot", "--adapter"]),
        ("build", ["--config", "--out", "--adapter"]),
        ("snapshot", ["--target", "--timeout-s"]),
        ("restore", ["--target", "--number", "--timeout-s"]),
        ("rank", ["--user", "--candidates", "--arm", "--top-k", "--target", "--ca", "--token-file"]),
        ("bench", ["--config", "--requests", "--json", "--target", "--rate", "--arrivals", "--slo-ms", "--adapter"]),
        ("train", ["--config", "--out", "--steps", "--num-layers", "--tensorboard", "--adapter", "--distil"]),
        ("eval", ["--config", "--model", "--requests", "--arms", "--gate", "--json", "--plot", "--permutations"]),
        ("eval", ["--adapter", "--teacher"]),
    ],
)
def test_help_of_each_command(run, command, options):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert all(option in result.output for option in options)


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["demo", "--requests", "0"], "--requests"),
        (["serve", "--port", "70000"], "--port"),
        (["build"], "--out"),
        (["rank", "--user", "u"], "--candidates"),
        (["bench", "--duration-s", "0"], "--duration-s"),
        (["bench", "--arm", "full"], "--target"),
        (["bench", "--target", "localhost:1", "--adapter", "shop"], "--adapter"),
        (["recommend"], "recommend"),
    ],
)
def test_wrong_usage(run, args, named):
    result = run(*args)
    assert result.exit_code == 2
    assert named in result.output


@pytest.mark.parametrize(
    ("catalogue", "named"),
    [
        ("{format: csv}", "catalogue.format='csv'"),
        ("{format: jsonl}", "catalogue.paths"),
        ("{format: jsonl, paths: {events: e.jsonl}}", "catalogue.paths"),
        ("{format: jsonl, paths: {items: i.jsonl, itmes: i.jsonl}}", "itmes"),
        ("{format: jsonl, paths: {folder: nowhere}}", "nowhere"),
        ("{format: jsonl, paths: {items: nothing.jsonl}}", "nothing.jsonl"),
    ],
)
def test_a_catalogue_that_cannot_be_read(run, tmp_path, catalogue, named):
    path = tmp_path / "mine.yaml"
    path.write_text(f"catalogue: {catalogue}")
    result = run("serve", "--config", str(path))
    assert result.exit_code == 1
    assert named in result.stderr


def test_a_catalogue_from_files(tmp_path):
    (tmp_path / "items.jsonl").write_text('{"item_id": "a", "title": "A mug"}\n')
    (tmp_path / "users.jsonl").write_text('{"user_id": "u", "events": [{"item_id": "a"}]}\n')
    config = tmp_path / "mine.yaml"
    config.write_text(f"catalogue: {{format: jsonl, paths: {{folder: {tmp_path}}}}}")
    catalogue = read_catalogue(load_settings(config).catalogue)
    assert isinstance(catalogue, Catalogue)
    assert list(catalogue.items) == ["a"]
    assert catalogue.users["u"].events[0].title == "A mug"


def test_nobody_listens(run):
    result = run("rank", "--user", "u", "--candidates", "a,b", "--target", "127.0.0.1:1")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")


def test_the_configuration_file_spells_out_the_defaults():
    assert load_settings(EMBEDDED) == Settings()
    assert list(load_settings(EMBEDDED).arms) == list(Settings().arms)


def test_importing_the_command_does_not_start_jax():
    slow = ("jax", "numpy", "grpc", "transformers")
    code = f"import sys, rcjax.commands.app; print([m for m in {slow} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_only_the_advice_about_pytorch_is_silenced(run, caplog):
    run("demo", "--help")
    logger = logging.getLogger("transformers")
    filters = list(logger.filters)
    try:
        run("rank", "--user", "u")  # goes through the callback
        records = [
            logging.LogRecord("transformers", logging.WARNING, "", 0, message, None, None)
            for message in ("PyTorch was not found. Models won't be available", "the tokenizer is broken")
        ]
        assert [bool(logger.filter(record)) for record in records] == [False, True]
    finally:
        logger.filters[:] = filters


@pytest.mark.parametrize("name", rcjax.__all__)
def test_public_names(name):
    assert getattr(rcjax, name).__name__ == name


def test_other_names_are_not_there():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = rcjax.nothing

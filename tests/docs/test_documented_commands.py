"""What the Markdown files tell people to run is there: commands with their options, targets of make, scripts."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from rcjax.commands.app import app
from rcjax.config import Settings

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
COMMANDS = get_command(app).commands

_CODE = re.compile(r"^(?: {4}(?P<indented>.+)|(?P<fence>```\w*)|(?P<line>.*))$", re.MULTILINE)


def lines_of_code(page: Path) -> Iterator[str]:
    is_fenced = False
    for found in _CODE.finditer(page.read_text(encoding="utf-8")):
        if found["fence"]:
            is_fenced = not is_fenced
        elif found["indented"] or is_fenced:
            yield (found["indented"] or found["line"]).strip()


def calls(page: Path) -> Iterator[list[str]]:
    """The words of each command line, without its comment; `a && b` is two, and what continues a line is part of it."""
    text = "\n".join(lines_of_code(page)).replace("\\\n", " ")
    for line in text.splitlines():
        if re.match(r"(rcjax|make|python|\.venv/bin/\S+) ", line):
            words = shlex.split(line, comments=True)
            while "&&" in words:
                at = words.index("&&")
                yield words[:at]
                words = words[at + 1 :]
            yield words


def all_calls(program: str) -> list[object]:
    found = {" ".join(words): (page, words) for page in PAGES for words in calls(page) if words[0].endswith(program)}
    return [pytest.param(words, id=f"{page.name}: {line}") for line, (page, words) in found.items()]


@pytest.mark.parametrize("words", all_calls("rcjax"))
def test_commands_take_the_options_that_they_are_given(words: list[str]) -> None:
    _, name, *options = words
    assert name in COMMANDS, f"there is no rcjax {name}"
    COMMANDS[name].make_context(f"rcjax {name}", options)


@pytest.mark.parametrize("words", all_calls("make"))
def test_make_has_the_targets(words: list[str]) -> None:
    assert {word for word in words[1:] if "=" not in word} <= TARGETS


@pytest.mark.parametrize("words", all_calls("python"))
def test_scripts_are_there(words: list[str]) -> None:
    script = words[1]
    if script not in ("-m", "-c", "client.py"):  # the last is the tutorial's own
        assert (ROOT / script).is_file()


def test_what_is_documented_was_found() -> None:
    assert all(len(all_calls(program)) > 5 for program in ("rcjax", "make", "python"))


def test_the_tutorials_settings_are_valid() -> None:
    text = (ROOT / "docs/tutorial.md").read_text(encoding="utf-8")
    blocks = [yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)]
    assert len(blocks) >= 2
    for block in blocks:
        Settings.model_validate(block)

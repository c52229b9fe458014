"""A page for each command of `rcjax`, from the application itself."""

import re
from typing import Any

from repository import with_links_to_pages
from tables import table
from typer.main import get_command

from rcjax.commands.app import app

FOLDER = "reference/commands"

_BOLD = re.compile(r"\[bold\](.*?)\[/(?:bold)?\]")  # of commands, in all help texts
_BRACKETS = re.compile(r"^(?P<help>.*?)(?:\s*\[(?P<limits>[^\[\]]*)\])?$", re.DOTALL)


def command_pages() -> dict[str, str]:
    """The Markdown of each page by its path, the index first."""
    group = get_command(app)
    context = group.make_context("rcjax", [], resilient_parsing=True)
    commands = {name: group.get_command(context, name) for name in group.list_commands(context)}  # type: ignore[attr-defined]
    rows = [
        (f"[`rcjax {name}`]({name}.md)", _text(command.help).partition("\n\n")[0]) for name, command in commands.items()
    ]
    commands_table = table(("command", "does"), rows)
    index = f"# Commands\n\n{_text(group.help)}\n\n{commands_table}\n{_text(group.epilog)}\n"
    pages = {f"{FOLDER}/{name}.md": _page(name, command) for name, command in commands.items()}
    return {f"{FOLDER}/index.md": index, **pages}


def _page(name: str, command: Any) -> str:
    """The page of a command; that of a group has its commands one after the other."""
    of_group = getattr(command, "commands", None)
    if of_group is None:
        return f"# rcjax {name}\n\n{_section(name, command)}"
    sections = [f"## rcjax {name} {own}\n\n{_section(f'{name} {own}', one)}" for own, one in of_group.items()]
    return "\n\n".join([f"# rcjax {name}", _text(command.help), *sections])


def _section(name: str, command: Any) -> str:
    context = command.make_context(f"rcjax {name}", [], resilient_parsing=True)
    usage = " ".join(["rcjax", name, *(_required(command, context)), "[OPTIONS]"])
    rows = []
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is None:
            continue
        found = _BRACKETS.match(record[1])
        assert found is not None  # it matches any text
        rows.append((f"`{record[0]}`", _text(found["help"]), found["limits"] or ""))
    options = table(("option", "meaning", "default and limits"), rows)
    return f"    {usage}\n\n{_text(command.help)}\n\n{options}"


def _required(command: Any, context: Any) -> list[str]:
    """The options that must be given, as a usage line has them."""
    return [p.get_help_record(context)[0].split(", ")[-1] for p in command.get_params(context) if p.required]


def _text(help: str) -> str:
    return with_links_to_pages(_BOLD.sub(r"`\1`", help), f"{FOLDER}/index.md")

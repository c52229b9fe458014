"""Tables in Markdown."""

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(text) for text in line)} |" for line in lines) + "\n"


def _cell(text: str) -> str:
    # Between backticks a pipe ends no cell, and a backslash before it would be shown.
    parts = " ".join(text.split()).split("`")
    return "`".join(part if index % 2 else part.replace("|", r"\|") for index, part in enumerate(parts))

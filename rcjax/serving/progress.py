"""Progress for a person to watch: what is about to happen, and how far it has come."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


@contextmanager
def announced(console: Console) -> Iterator[Callable[[str], None]]:
    """Takes what is about to happen: a spinner on a terminal, lines elsewhere."""
    if not console.is_terminal:
        yield lambda step: console.print(step, markup=False, highlight=False)
        return
    with console.status("starting") as status:
        yield lambda step: status.update(escape(step))


def noted(console: Console) -> Callable[[str], None]:
    """Takes what is to be known though all goes on, such as the records that a load left out."""
    return lambda line: console.print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)


def meters(console: Console) -> Progress:
    """What the bars of `Meter`s are shown in, for the length of a `with`."""
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    # In a notebook rich shows a widget on a quiet console too.
    return Progress(*columns, TimeElapsedColumn(), console=console, disable=console.quiet)


class Meter:
    """One progress bar, which also shows how many of its things and tokens go in per second."""

    def __init__(self, bar: Progress, what: str, total: int):
        self._bar = bar
        self._what = what
        self._task: TaskID = bar.add_task(f"caching {what}", total=total, rate="")
        self.num_put = 0
        self.num_tokens = 0

    def put(self, number: int, num_tokens: int) -> None:
        self.num_put += number
        self.num_tokens += num_tokens
        self._bar.advance(self._task, number)
        elapsed_s = self._bar.tasks[self._task].elapsed
        rate = f", {self.num_put / elapsed_s:.1f} {self._what}/s" if elapsed_s else ""
        self._bar.update(self._task, rate=f"{self.num_tokens:,} tokens{rate}")

    def skip(self) -> None:
        self._bar.advance(self._task)

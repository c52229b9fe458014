"""What a load tells about itself: errors that were skipped, prices that could not be read, and the counts."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

from rcjax.catalog.columns import Columns
from rcjax.catalog.errors import CatalogueError, RecordError, shown
from rcjax.catalog.prices import UnreadPriceError, read_price
from rcjax.catalog.record import Record
from rcjax.catalog.source import Line

OnError = Literal["stop", "skip"]
MAX_LISTED = 10

Raw = TypeVar("Raw")
Thing = TypeVar("Thing")


@dataclass(frozen=True, slots=True)
class ReadReport:
    """How much was read, and what was left out and why.

    `skipped` counts records that cannot be used, such as an item without a title. `num_errors` counts records that
    could not be read (there are none unless errors are skipped), and `errors` has the first ten messages.
    `num_unread_prices` counts items that are there without their price, and `unread_price` is one of these.
    """

    num_items: int
    num_users: int
    num_events: int
    num_requests: int
    skipped: dict[str, int] = field(default_factory=dict)
    num_errors: int = 0
    errors: tuple[str, ...] = ()
    num_unread_prices: int = 0
    unread_price: str | None = None
    notes: tuple[str, ...] = ()

    def lines(self) -> tuple[str, ...]:
        """What somebody who loads the files should know; empty where everything was read."""
        lines = [f"left out {_records(count)}: {reason}" for reason, count in self.skipped.items()]
        if self.num_errors:
            which = f", the first {len(self.errors)} of them" if self.num_errors > len(self.errors) else ""
            lines.append(f"left out {_records(self.num_errors)} with an error{which}:")
            lines += [f"  {error}" for error in self.errors]
        if self.num_unread_prices:
            prices = "1 price that is" if self.num_unread_prices == 1 else f"{self.num_unread_prices:,} prices that are"
            lines.append(f"left out {prices} not clear, such as {self.unread_price}")
        return (*lines, *self.notes)


def _records(count: int) -> str:
    return "1 record" if count == 1 else f"{count:,} records"


@dataclass(slots=True)
class ReadLog:
    """How files are read, and what is found on the way; one for all files of a catalogue."""

    on_error: OnError = "stop"
    progress: bool = False
    columns: Columns = field(default_factory=Columns)
    num_errors: int = 0
    errors: list[str] = field(default_factory=list)
    num_unread_prices: int = 0
    unread_price: str | None = None
    notes: list[str] = field(default_factory=list)

    def each(self, path: Path, raws: Iterable[Raw], parse: Callable[[Raw], Thing]) -> Iterator[Thing]:
        """What `parse` makes of each record of a file.

        Records that it cannot read stop the file or are skipped. Errors of `raws` are of the file and always stop,
        and so does a file that has nothing but errors, more than are listed.
        """
        num_read, former_errors, first = 0, self.num_errors, ""
        for raw in raws:
            try:
                thing = parse(raw)
            except RecordError as error:
                if self.on_error == "stop":
                    raise
                first = first or str(error)
                self._skip(error)
                continue
            num_read += 1
            yield thing
        num_errors = self.num_errors - former_errors
        if num_errors > MAX_LISTED and not num_read:
            raise CatalogueError(f"{path}: none of its {num_errors:,} records can be read; the first: {first}")

    def noting_a_cut_end(self, lines: Iterable[Line]) -> Iterator[Line]:
        """The lines; of a last one without a line break a note, as it may be cut off and still look whole."""
        for line in lines:
            if not line.has_break:
                problem = "the file ends without a line break; if it is cut off there, this record may be wrong"
                self.notes.append(f"{line.where}: {problem}")
            yield line

    def price(self, record: Record, field: str = "price") -> float | None:
        """The record's price; one that is not clear is counted and left out."""
        value = record.values.get(field)
        try:
            return read_price(value)
        except UnreadPriceError as reason:
            self.num_unread_prices += 1
            if self.unread_price is None:
                self.unread_price = str(record.error(field, f"{shown(value)} ({reason})"))
            return None

    def _skip(self, error: RecordError) -> None:
        self.num_errors += 1
        if len(self.errors) < MAX_LISTED:
            self.errors.append(str(error))

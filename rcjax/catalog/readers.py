"""The front door: files of any supported format to a `Catalogue`, and a count of what had to be left out."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Literal, Protocol, get_args, runtime_checkable

from rcjax.catalog import amazon, jsonl, movielens, parquet, recbole, yelp
from rcjax.catalog.columns import Columns
from rcjax.catalog.errors import CatalogueError
from rcjax.catalog.report import OnError, ReadLog, ReadReport
from rcjax.catalog.schema import Interaction
from rcjax.catalog.types import Catalogue, Event, Item, Request, User

Format = Literal["jsonl", "parquet", "amazon2014", "amazon2023", "movielens", "yelp", "recbole"]


@runtime_checkable
class _ItemReader(Protocol):
    def __call__(self, path: Path, log: ReadLog) -> Iterator[Item]: ...


@runtime_checkable
class _EventReader(Protocol):
    def __call__(self, path: Path, log: ReadLog) -> Iterator[Interaction]: ...


@dataclass(frozen=True, slots=True)
class CataloguePaths:
    """The files of one catalogue: items, then whichever of the others there are.

    With `parquet`, items and events may each be a folder of shards, or one that `datasets` saved (`shards`).

    `users` and `requests` are the project's own records (JSONL or Parquet) beside items of any format;
    `events` is in the format's own layout.
    """

    items: Path
    events: Path | None = None
    users: Path | None = None
    requests: Path | None = None


@dataclass(frozen=True, slots=True)
class _Layout:
    """How a format reads its items and events, and how its files are called in a folder.

    `has_columns` says whether their columns can be named (`Columns`).
    """

    read_items: _ItemReader
    read_events: _EventReader
    items: tuple[str, ...]
    events: tuple[str, ...]
    has_columns: bool = False


_LAYOUTS: dict[str, _Layout] = {
    "jsonl": _Layout(jsonl.read_items, jsonl.read_events, ("items.jsonl",), ("events.jsonl", "interactions.jsonl")),
    "parquet": _Layout(
        parquet.read_items,
        parquet.read_events,
        ("items.parquet",),
        ("events.parquet", "interactions.parquet"),
        has_columns=True,
    ),
    "amazon2014": _Layout(amazon.read_items_2014, amazon.read_events_2014, ("meta_*.json",), ("reviews_*.json",)),
    "amazon2023": _Layout(amazon.read_items_2023, amazon.read_events_2023, ("meta_*.jsonl",), ("[A-Z]*.jsonl",)),
    "movielens": _Layout(
        movielens.read_items, movielens.read_events, ("movies.dat", "movies.csv"), ("ratings.dat", "ratings.csv")
    ),
    "yelp": _Layout(yelp.read_items, yelp.read_events, ("*business.json",), ("*review.json",)),
    "recbole": _Layout(recbole.read_items, recbole.read_events, ("*.item",), ("*.inter",), has_columns=True),
}


@dataclass(slots=True)
class _Assembly:
    """A catalogue while it is being read: items first, so that events and requests can be checked on arrival."""

    items: dict[str, Item] = field(default_factory=dict)
    interactions: dict[str, list[Interaction]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)

    def add_item(self, item: Item) -> None:
        if not item.title:
            self.skipped["item without a title"] += 1
        elif item.item_id in self.items:
            self.skipped["item whose id came before"] += 1
        else:
            self.items[item.item_id] = item

    def add_user(self, user_id: str, interactions: list[Interaction]) -> None:
        self.interactions.setdefault(user_id, [])
        for interaction in interactions:
            self.add_event(interaction)

    def add_event(self, interaction: Interaction) -> None:
        if not interaction.title and interaction.item_id not in self.items:
            self.skipped["event of an unknown item, without a title"] += 1
        else:
            self.interactions.setdefault(interaction.user_id, []).append(interaction)

    def add_request(self, request: Request) -> None:
        if request.user_id not in self.interactions:
            self.skipped["request of an unknown user"] += 1
        elif any(candidate not in self.items for candidate in request.candidates):
            self.skipped["request with an unknown candidate"] += 1
        elif len(set(request.candidates)) < len(request.candidates):
            self.skipped["request with a candidate twice"] += 1  # recorded traces have a few
        else:
            self.requests.append(request)

    def user(self, user_id: str) -> User:
        return User(
            user_id, tuple(map(self._joined, sorted(self.interactions[user_id], key=lambda one: one.time_order)))
        )

    def _joined(self, interaction: Interaction) -> Event:
        return Event(
            item_id=interaction.item_id,
            title=interaction.title or self.items[interaction.item_id].title,
            text=interaction.text,
            rating=interaction.rating,
            timestamp_s=interaction.timestamp_s,
        )


def load_catalogue(
    paths: CataloguePaths | Path | str,
    format: Format = "jsonl",
    *,
    progress: bool = True,
    on_error: OnError = "stop",
    columns: Columns | None = None,
) -> tuple[Catalogue, ReadReport]:
    """Reads a catalogue from named files, or from a folder whose files have their usual names.

    A user's events are sorted by timestamp, then by `order`, then as they stand in the file. Records that
    cannot be used (an item without a title, an event or a request about one, a request with a candidate
    twice) are left out and counted in the report. A record that is wrong raises `CatalogueError`, which
    names its place, or is left out with `on_error="skip"`; a file that is damaged as a whole always raises.

    `columns` says what the files' columns are called, where that is not as usual: of `parquet` and `recbole`.

    Example:

        >>> lines = folder / "items.jsonl"  # and users.jsonl, events.jsonl, requests.jsonl, where there are any
        >>> _ = lines.write_text('{"item_id": "mug-1", "title": "Stoneware mug"}')
        >>> catalogue, report = load_catalogue(folder)
        >>> list(catalogue.items), report.num_items
        (['mug-1'], 1)
    """
    if format not in _LAYOUTS:
        raise CatalogueError(f"{format=} is unknown; choose one of {', '.join(_LAYOUTS)}")
    if on_error not in get_args(OnError):
        raise CatalogueError(f"{on_error=} is unknown; choose one of {', '.join(get_args(OnError))}")
    layout = _LAYOUTS[format]
    if not isinstance(paths, CataloguePaths):
        paths = _paths_in(Path(paths), layout)
    columns = columns or Columns()
    _check_columns(columns, format, layout, paths)
    assembly, log = _Assembly(), ReadLog(on_error, progress, columns)
    for item in layout.read_items(paths.items, log):
        assembly.add_item(item)
    if paths.users:
        for user_id, interactions in _own_format(paths.users).read_users(paths.users, log):
            assembly.add_user(user_id, interactions)
    if paths.events:
        for interaction in layout.read_events(paths.events, log):
            assembly.add_event(interaction)
    if paths.requests:
        for request in _own_format(paths.requests).read_requests(paths.requests, log):
            assembly.add_request(request)
    users = {user_id: assembly.user(user_id) for user_id in assembly.interactions}
    catalogue = Catalogue(assembly.items, users, tuple(assembly.requests))
    return catalogue, _report(catalogue, assembly.skipped, log)


def _check_columns(columns: Columns, format: str, layout: _Layout, paths: CataloguePaths) -> None:
    """`CatalogueError` where columns are named that nothing would read."""
    if columns and not layout.has_columns:
        formats = " and ".join(name for name, other in _LAYOUTS.items() if other.has_columns)
        raise CatalogueError(f"catalogue.columns is for {formats}; {format} has names of its own: leave it out")
    if columns.events and paths.events is None:
        raise CatalogueError("catalogue.columns.events names columns, and the catalogue has no file of events")


def _own_format(path: Path) -> ModuleType:
    return parquet if path.suffix == ".parquet" else jsonl


def _paths_in(folder: Path, layout: _Layout) -> CataloguePaths:
    if not folder.is_dir():
        raise CatalogueError(f"{folder}: no such folder")
    items = _find(folder, layout.items)
    if items is None:
        raise CatalogueError(f"{folder}: no file called {' or '.join(layout.items)}, plain or .gz")
    return CataloguePaths(
        items=items,
        events=_find(folder, layout.events),
        users=_find(folder, ("users.jsonl", "users.parquet")),
        requests=_find(folder, ("requests.jsonl", "requests.parquet")),
    )


def _find(folder: Path, patterns: tuple[str, ...]) -> Path | None:
    found = sorted({path for pattern in patterns for end in ("", ".gz") for path in folder.glob(pattern + end)})
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise CatalogueError(f"{folder}: {names} all fit; keep one or name the files with CataloguePaths")
    return found[0] if found else None


def _report(catalogue: Catalogue, skipped: Counter[str], log: ReadLog) -> ReadReport:
    return ReadReport(
        num_items=len(catalogue.items),
        num_users=len(catalogue.users),
        num_events=sum(len(user.events) for user in catalogue.users.values()),
        num_requests=len(catalogue.requests),
        skipped=dict(skipped),
        num_errors=log.num_errors,
        errors=tuple(log.errors),
        num_unread_prices=log.num_unread_prices,
        unread_price=log.unread_price,
        notes=tuple(log.notes),
    )

"""Which column of a file holds which field of a record."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rcjax.catalog.errors import CatalogueError, shown

_MAX_LISTED = 100


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns that a user names, for files whose columns are called otherwise than our fields.

    `items` and `events` have the file's column by our field. A field that is not there is read from the column that
    has its usual name, if the file has one.
    """

    items: Mapping[str, str] = field(default_factory=dict)
    events: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.items or self.events)


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of a kind of record in a format: `needed` ones must have a column.

    `usual` has the columns that are looked for where a field's is not its own name, the first that is there wins.
    Columns can be named for items and events only.
    """

    kind: str
    names: tuple[str, ...]
    needed: tuple[str, ...]
    usual: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def columns(self, place: str, named: Mapping[str, str], present: Sequence[str]) -> dict[str, str]:
        """The column of each field that has one, where `present` are those of a file.

        `CatalogueError` names `place`, and lists what is present, where a name of `named` is no field or no column, or
        where a needed field has no column.
        """
        for name in named:
            if name not in self.names:
                problem = f"{name!r} is no field of {self.kind}; they have {', '.join(self.names)}"
                raise CatalogueError(
                    f"{place}: catalogue.columns.{self.kind}: {problem}; the file has {_list(present)}"
                )
        found = {name: self._column(place, name, named, present) for name in self.names}
        columns = {name: column for name, column in found.items() if column is not None}
        for column in columns.values():
            if present.count(column) > 1:
                raise CatalogueError(f"{place}: column {shown(column)} is there more than once; keep one")
        return columns

    def _column(self, place: str, name: str, named: Mapping[str, str], present: Sequence[str]) -> str | None:
        if name in named:
            if named[name] not in present:
                setting = f"catalogue.columns.{self.kind}.{name} names"
                problem = f"no column {named[name]!r}, which {setting}; it has {_list(present)}"
                raise CatalogueError(f"{place}: {problem}")
            return named[name]
        usual = self.usual.get(name, (name,))
        column = next((column for column in usual if column in present), None)
        if column is None and name in self.needed:
            advice = f"; name the one that is meant in catalogue.columns.{self.kind}.{name}" if self._is_named else ""
            raise CatalogueError(f"{place}: no column {' or '.join(usual)}; it has {_list(present)}{advice}")
        return column

    @property
    def _is_named(self) -> bool:
        return self.kind in ("items", "events")


def _list(columns: Sequence[str]) -> str:
    names = ", ".join(shown(column) for column in columns[:_MAX_LISTED])
    return names + (f" and {len(columns) - _MAX_LISTED} more" if len(columns) > _MAX_LISTED else "") or "none"

"""Where items stand: a frozen value with lookups by item id, a fingerprint and a file."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Int, Int32, Int64

from rcjax.disk import write_whole
from rcjax.errors import NotFoundError

FORMAT = "rcjax.placement.1"


@dataclass(frozen=True, eq=False)
class Placement:
    """The slices of each item: those of row n are `slices[starts[n]:starts[n + 1]]`, ascending, at least one.

    ValueError where ids repeat, an item has no slice or one twice, or a slice is not in [0, num_slices).
    """

    item_ids: tuple[str, ...]
    starts: Int64[np.ndarray, "N1"]
    slices: Int32[np.ndarray, "M"]
    num_slices: int

    def __post_init__(self) -> None:
        self._check()
        self.starts.setflags(write=False)
        self.slices.setflags(write=False)

    def _check(self) -> None:
        counts = np.diff(self.starts)
        if len(self.starts) != len(self.item_ids) + 1 or self.starts[0] != 0 or self.starts[-1] != len(self.slices):
            raise ValueError(
                f"{len(self.item_ids)} items need starts from 0 to {len(self.slices)}, one more than items"
            )
        if len(counts) and counts.min() < 1:
            raise ValueError(f"item {self.item_ids[int(counts.argmin())]!r} stands on no slice; every item needs one")
        if len(self.slices) and not 0 <= self.slices.min() <= self.slices.max() < self.num_slices:
            found = f"{self.slices.min()}..{self.slices.max()}"
            raise ValueError(f"slices {found} are not all in 0..{self.num_slices - 1}, as num_slices says")
        same_item = np.diff(self.rows) == 0
        if (np.diff(self.slices)[same_item] <= 0).any():
            raise ValueError("an item's slices must ascend, each of them once")
        if len(self.row_of) != len(self.item_ids):
            raise ValueError(f"{len(self.item_ids) - len(self.row_of)} item ids stand there twice; ids must be unique")

    @classmethod
    def of_pairs(
        cls, item_ids: Sequence[str], rows: Int[np.ndarray, "M"], slices: Int[np.ndarray, "M"], num_slices: int
    ) -> "Placement":
        """From rows of items and a slice of each, in any order."""
        order = np.lexsort((slices, rows))
        starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(item_ids)))])
        return cls(tuple(item_ids), starts.astype(np.int64), slices[order].astype(np.int32), num_slices)

    @classmethod
    def of_part(cls, item_ids: Sequence[str], part: Int[np.ndarray, "N"], num_slices: int) -> "Placement":
        """One slice an item."""
        return cls.of_pairs(item_ids, np.arange(len(part)), part, num_slices)

    @classmethod
    def of_matrix(cls, item_ids: Sequence[str], stands: Bool[np.ndarray, "N K"]) -> "Placement":
        """From one row an item and one column a slice."""
        rows, slices = np.nonzero(stands)
        return cls.of_pairs(item_ids, rows, slices, stands.shape[1])

    @cached_property
    def row_of(self) -> dict[str, int]:
        """The row of each item id."""
        return {item_id: row for row, item_id in enumerate(self.item_ids)}

    @cached_property
    def rows(self) -> Int64[np.ndarray, "M"]:
        """The row that each entry of `slices` belongs to."""
        return np.repeat(np.arange(len(self.item_ids)), np.diff(self.starts))

    def slices_of(self, item_id: str) -> Int32[np.ndarray, "_"]:
        """The slices that an item stands on, ascending; `NotFoundError` for an id that is not placed."""
        row = self.row_of.get(item_id)
        if row is None:
            raise NotFoundError(f"item {item_id!r} has no place; place it with place_newcomers")
        return self.slices[self.starts[row] : self.starts[row + 1]]

    @cached_property
    def matrix(self) -> sp.csr_array:
        """[N, K] float32: 1 where an item stands on a slice."""
        ones = np.ones(len(self.slices), np.float32)
        return sp.csr_array((ones, self.slices, self.starts), (len(self.item_ids), self.num_slices))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over ids, slices and their number, in hex: equal for equal placements of items in the same order."""
        digest = hashlib.sha256(f"{FORMAT} {self.num_slices} {len(self.item_ids)}\n".encode())
        digest.update(json.dumps(self.item_ids).encode())
        digest.update(self.starts.astype("<i8").tobytes())
        digest.update(self.slices.astype("<i4").tobytes())
        return digest.hexdigest()

    def save(self, path: Path) -> None:
        """Writes JSON: ids and slices, nothing of the items themselves; `DiskError`."""
        counts = np.diff(self.starts).tolist()
        fields = {"format": FORMAT, "fingerprint": self.fingerprint, "num_slices": self.num_slices}
        arrays = {"item_ids": self.item_ids, "num_copies": counts, "slices": self.slices.tolist()}
        write_whole(path, json.dumps(fields | arrays) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Placement":
        """What `save` wrote; ValueError names the file where it is something else or was changed."""
        with _reading(path):
            fields = json.loads(path.read_text(encoding="utf-8"))
            if fields["format"] != FORMAT:
                raise ValueError(f"format {fields['format']!r} is not {FORMAT!r}; compute the placement anew")
            starts = np.concatenate([[0], np.cumsum(np.array(fields["num_copies"], np.int64))]).astype(np.int64)
            slices = np.array(fields["slices"], np.int32)
            placement = cls(tuple(fields["item_ids"]), starts, slices, int(fields["num_slices"]))
            if placement.fingerprint != fields["fingerprint"]:
                raise ValueError("its fingerprint is not that of its content: damaged or edited; compute it anew")
        return placement


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, TypeError) as error:
        missing = f"field {error} is missing" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path}: no placement: {missing}") from error

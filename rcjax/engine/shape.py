"""Shapes: the sizes that forward passes are compiled for, and what a row asks of one."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rcjax.errors import InvalidRequestError


@dataclass(frozen=True, slots=True)
class RowSize:
    """What a row of a pass needs.

    `own` has the fresh tokens and the pages of each segment whose pages nobody else sees: where a shape has tiles,
    these pages need not be among those that all queries may see. `is_moved` says that some keys have to be turned.
    """

    fresh_tokens: int
    num_pages: int
    own: tuple[tuple[int, int], ...] = ()
    is_moved: bool = True


@dataclass(frozen=True, slots=True, order=True)
class Shape:
    """One compiled program: `batch` rows of `fresh_tokens` each, all of which may attend to `num_pages` pages a row.

    With `tiles`, up to `tile_tokens` of a row's tokens are in each of so many tiles, and may attend to `tile_pages`
    more pages that are theirs alone. A shape `at_home` turns no keys: it is for tokens where they were computed.
    """

    fresh_tokens: int
    num_pages: int
    batch: int = 1
    tiles: int = 0
    tile_tokens: int = 1
    tile_pages: int = 0
    at_home: bool = False

    def __str__(self) -> str:
        rows = f"{self.batch} x " if self.batch > 1 else ""
        tiles = f" and {self.tiles} tiles of {self.tile_pages}" if self.tiles else ""
        return f"{rows}{self.fresh_tokens} fresh tokens, {self.num_pages}{tiles} pages"

    def holds(self, size: RowSize) -> bool:
        """Whether a row of that size is one of this shape's."""
        if size.fresh_tokens > self.fresh_tokens or (self.at_home and size.is_moved):
            return False
        return size.num_pages <= self.num_pages or (self.tiles > 0 and self._shared_pages(size) <= self.num_pages)

    def takes(self, tokens: int, pages: int) -> bool:
        """Whether one tile holds so many tokens and pages."""
        return tokens <= self.tile_tokens and pages <= self.tile_pages

    def _shared_pages(self, size: RowSize) -> int:
        """The pages that are left for all queries when the first segments that fit have a tile each."""
        taken = [pages for tokens, pages in size.own if self.takes(tokens, pages)]
        return size.num_pages - sum(taken[: self.tiles])


class RowCost(NamedTuple):
    """Seconds of a pass for a row alone, and of the full pass in which a row costs the fewest seconds, its share."""

    alone_s: float
    share_s: float
    full_pass_s: float


class ShapeSet:
    """The shapes that were compiled for one purpose; `seconds` says what a pass of each takes, which may change."""

    def __init__(self, purpose: str, shapes: Sequence[Shape], seconds: Callable[[Shape], float]):
        if not shapes:
            raise ValueError(f"no {purpose} shapes are configured; at least one is needed")
        self.purpose = purpose
        self.shapes = tuple(sorted(shapes))
        self.seconds = seconds

    def __iter__(self) -> Iterator[Shape]:
        return iter(self.shapes)

    @property
    def max_batch(self) -> int:
        return max(shape.batch for shape in self.shapes)

    def subset(self, is_kept: Callable[[Shape], bool]) -> "ShapeSet":
        """Those for which `is_kept` holds, or all of them where it holds for none."""
        return ShapeSet(self.purpose, [shape for shape in self.shapes if is_kept(shape)] or self.shapes, self.seconds)

    def fit(self, sizes: Sequence[RowSize]) -> Shape:
        """The fastest shape that holds rows of these sizes; `InvalidRequestError` if none does."""
        return min(self._holding(sizes), key=self.seconds)

    def row_cost(self, size: RowSize) -> "RowCost":
        """What a row of that size costs; `InvalidRequestError` if no shape holds it."""
        timed = [(self.seconds(shape), shape.batch) for shape in self._holding([size])]
        full_pass_s, batch = min(timed, key=lambda one: one[0] / one[1])
        return RowCost(alone_s=min(timed)[0], share_s=full_pass_s / batch, full_pass_s=full_pass_s)

    def _holding(self, sizes: Sequence[RowSize]) -> list[Shape]:
        holding = [shape for shape in self.shapes if len(sizes) <= shape.batch and all(map(shape.holds, sizes))]
        if holding:
            return holding
        fresh_tokens, num_pages = max(size.fresh_tokens for size in sizes), max(size.num_pages for size in sizes)
        raise InvalidRequestError(
            f"the {self.purpose} pass needs {fresh_tokens=} and {num_pages=} for batch={len(sizes)}, more than any "
            f"compiled shape holds ({'; '.join(map(str, self.shapes))}); send fewer candidates or configure a larger "
            "shape"
        )

"""Shapes: the sizes that forward passes are compiled for."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rcjax.errors import InvalidRequestError


@dataclass(frozen=True, slots=True, order=True)
class Shape:
    """One compiled program: `batch` rows of `fresh_tokens` each, attending to up to `num_pages` pages a row."""

    fresh_tokens: int
    num_pages: int
    batch: int = 1

    def __str__(self) -> str:
        rows = f"{self.batch} x " if self.batch > 1 else ""
        return f"{rows}{self.fresh_tokens} fresh tokens, {self.num_pages} pages"

    def holds(self, fresh_tokens: int, num_pages: int, batch: int = 1) -> bool:
        return fresh_tokens <= self.fresh_tokens and num_pages <= self.num_pages and batch <= self.batch


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

    def fit(self, fresh_tokens: int, num_pages: int, batch: int = 1) -> Shape:
        """The fastest shape that holds the pass; `InvalidRequestError` if none does."""
        holding = [shape for shape in self.shapes if shape.holds(fresh_tokens, num_pages, batch)]
        if holding:
            return min(holding, key=self.seconds)
        raise InvalidRequestError(
            f"the {self.purpose} pass needs {fresh_tokens=} and {num_pages=} for {batch=}, more than any compiled "
            f"shape holds ({'; '.join(map(str, self.shapes))}); send fewer candidates or configure a larger shape"
        )

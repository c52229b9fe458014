"""Shapes: the sizes that forward passes are compiled for."""

from collections.abc import Iterator, Sequence
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

    @property
    def cost(self) -> int:
        """What the padding of a shape costs, roughly: fresh tokens do the work, pages are only read."""
        return self.batch * (self.fresh_tokens * 64 + self.num_pages)

    def holds(self, fresh_tokens: int, num_pages: int, batch: int = 1) -> bool:
        return fresh_tokens <= self.fresh_tokens and num_pages <= self.num_pages and batch <= self.batch


class ShapeSet:
    """The shapes that were compiled for one purpose, from which each pass takes the cheapest that holds it."""

    def __init__(self, purpose: str, shapes: Sequence[Shape]):
        if not shapes:
            raise ValueError(f"no {purpose} shapes are configured; at least one is needed")
        self.purpose = purpose
        self.shapes = tuple(sorted(shapes, key=lambda shape: shape.cost))

    def __iter__(self) -> Iterator[Shape]:
        return iter(self.shapes)

    def fit(self, fresh_tokens: int, num_pages: int, batch: int = 1) -> Shape:
        """The cheapest shape that holds the pass; `InvalidRequestError` if none does."""
        for shape in self.shapes:
            if shape.holds(fresh_tokens, num_pages, batch):
                return shape
        raise InvalidRequestError(
            f"the {self.purpose} pass needs {fresh_tokens=} and {num_pages=} for {batch=}, more than any compiled "
            f"shape holds ({'; '.join(map(str, self.shapes))}); send fewer candidates or configure a larger shape"
        )

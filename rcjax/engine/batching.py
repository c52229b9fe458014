"""The batch former: which of the requests that are ready share the next pass, and in which shape."""

from collections.abc import Sequence
from typing import Protocol, TypeVar, runtime_checkable

from rcjax.engine.shape import RowSize, Shape, ShapeSet


@runtime_checkable
class Batchable(Protocol):
    """What the former has to know of a request."""

    @property
    def size(self) -> RowSize: ...


R = TypeVar("R", bound=Batchable)


def next_batch(ready: Sequence[R], shapes: ShapeSet) -> tuple[list[R], Shape]:
    """The first of `ready` and those that share a pass with it at the fewest seconds a request, padding included.

    A shape takes of `ready`, in order, what fits its rows. It costs a whole pass however many rows are filled, so a
    shape of eight rows is taken for two requests only if it is faster than one of two. Ties go to fewer rows. Raises
    `InvalidRequestError` where no shape holds the first.
    """
    best: tuple[float, int, list[R], Shape] | None = None
    first = ready[0]
    for shape in shapes:
        if not shape.holds(first.size):
            continue
        members = [first]
        for other in ready[1:]:
            if len(members) == shape.batch:
                break
            if shape.holds(other.size):
                members.append(other)
        rank = (shapes.seconds(shape) / len(members), shape.batch)
        if best is None or rank < best[:2]:
            best = (*rank, members, shape)
    if best is None:
        return [first], shapes.fit([first.size])
    return best[2], best[3]

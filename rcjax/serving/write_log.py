"""A log of writes: where else they are kept before they are answered."""

from collections.abc import Callable
from typing import Protocol

from rcjax.serving.parts import WritePlanned


class WriteLog(Protocol):
    """Keeps what writes change; one that is answered has been kept."""

    def append(self, plan: WritePlanned, then: Callable[[], None], failed: Callable[[Exception], None]) -> None:
        """Keeps a write, and calls `then` once it is kept, or `failed`; nobody waits."""
        ...


class NoLog:
    """Keeps nothing: the library of this process is all there is."""

    def append(self, plan: WritePlanned, then: Callable[[], None], failed: Callable[[Exception], None]) -> None:
        then()

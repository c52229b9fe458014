"""The places of a router's slices, and who comes to them and goes: for workers that are other processes."""

from rcjax.serving.attempts import Attempts
from rcjax.serving.dispatch import Dispatcher


class Places:
    """A router has as many places as it may ever have slices; a worker takes one, and leaves or loses it.

    What a worker had when it goes, or when it stalls, is tried on others. Any thread may call any method.
    """

    def __init__(self, dispatcher: Dispatcher, attempts: Attempts):
        self._dispatcher = dispatcher
        self._attempts = attempts

    def occupy(self, index: int) -> None:
        """A worker is there, and holds nothing yet."""
        self._dispatcher.occupy(index)

    def vacate(self, index: int) -> None:
        """The worker has gone, as it was told to."""
        self._attempts.move(self._dispatcher.vacate(index))

    def lose(self, index: int) -> None:
        """The worker has died."""
        self._attempts.lose(index)

    def stall(self, index: int) -> None:
        """The worker answers nothing for now."""
        self._attempts.move(self._dispatcher.stall(index))

    def resume(self, index: int) -> None:
        """The worker answers again."""
        self._dispatcher.resume(index)

"""Passes under way, and the thread that waits for them so that the worker's own thread need not."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from rcjax.engine.executor import Pending
from rcjax.engine.tasks import Task
from rcjax.engine.threads import join_all


@dataclass(eq=False, slots=True)
class Flight:
    """A pass that was started, the task that waits for it, and what came of it."""

    task: Task
    pending: Pending[Any]
    value: Any = None
    error: BaseException | None = None

    def land(self) -> None:
        """Fetches the result; blocks until it is there."""
        try:
            self.value = self.pending.result()
        except BaseException as error:  # whatever it is, the task has to hear of it
            self.error = error


class Completions:
    """Fetches the results of flights in the order in which they were started, on a thread of its own."""

    def __init__(self, name: str, on_landed: Callable[[Flight], None]):
        self._on_landed = on_landed
        self._flights: SimpleQueue[Flight | None] = SimpleQueue()
        # A daemon, as a pass that outlasts the grace period must not keep the process from exiting.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread once it has fetched what it was given; does not wait for that."""
        self._flights.put(None)

    def join(self) -> bool:
        """Waits a moment for the thread to end after `stop`; whether it has."""
        return join_all([self._thread])

    def watch(self, flight: Flight) -> None:
        self._flights.put(flight)

    def _run(self) -> None:
        while (flight := self._flights.get()) is not None:
            flight.land()
            self._on_landed(flight)

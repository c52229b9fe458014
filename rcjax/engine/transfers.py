"""Threads that wait for copies between devices, host and disk, so that the worker's own need not."""

import threading
from collections.abc import Callable
from queue import SimpleQueue

from rcjax.engine.threads import join_all

Job = Callable[[], None]


class Transfers:
    """Runs jobs on threads of its own, started in order; a job handles its own errors."""

    def __init__(self, name: str, num_threads: int):
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        # Daemons, as a copy that outlasts the grace period must not keep the process from exiting.
        self._threads = [threading.Thread(target=self._run, name=name, daemon=True) for _ in range(num_threads)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends the threads once they have done what they were given; does not wait for that."""
        for _ in self._threads:
            self._jobs.put(None)

    def join(self) -> bool:
        """Waits a moment for the threads to end after `stop`; whether they have."""
        return join_all(self._threads)

    def put(self, job: Job) -> None:
        self._jobs.put(job)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

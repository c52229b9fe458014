"""`rcjax serve` that can be told on standard input to be at fault: `python faulty_process.py serve ARGUMENTS`.

`raise`: the next pass raises; `kill`: the device of the slice that passes next is gone; `slow S`: from now on a pass
takes S seconds more; `check`: waits until no slice has work, and checks that nothing is left of any.
"""

import sys
import threading
import time
from typing import Any

from rcjax.commands.app import app
from rcjax.engine.executor import Executor, ExecutorLostError
from rcjax.serving import deployment


class Faults:
    """What the passes of all slices are to suffer."""

    def __init__(self) -> None:
        self.pause_s = 0.0
        self.next_error: Exception | None = None
        self._rank = Executor.rank
        self._lock = threading.Lock()

    def rank(self, executor: Executor, batch: Any, shape: Any) -> Any:
        with self._lock:
            error, self.next_error = self.next_error, None
        if error is not None:
            raise error
        started = self._rank(executor, batch, shape)
        time.sleep(self.pause_s)
        return started


def left_of(router: Any) -> str:
    """What is left once nothing is under way any more; nothing should be."""
    living = [worker for worker in router.workers if not worker.lost.done()]
    until_s = time.monotonic() + 60.0
    while not all(worker.call(lambda one: one._loop.is_idle).result() for worker in living):
        if time.monotonic() > until_s:
            return "work that does not end"
        time.sleep(0.01)

    def check(worker: Any) -> int:
        worker.cache.directory.check_integrity()
        num_pinned = worker.cache.directory.stats().pages_pinned - len(worker.cache.instruction_pages)
        return num_pinned + worker.cache.num_claims

    left = {f"pins of slice {worker.cache.executor.index}": worker.call(check).result() for worker in living}
    left |= {"calls": len(router._calls), "tickets": len(router.admission), "waiting": router.admission.num_waiting}
    left |= {"versions being read": len(router.library.versions._reads)}
    return ", ".join(f"{number} {name}" for name, number in left.items() if number) or "nothing"


def obey(engine: Any, faults: Faults) -> None:
    for line in sys.stdin:
        match line.split():
            case ["raise"]:
                faults.next_error = RuntimeError("secret of another user")
            case ["kill"]:
                faults.next_error = ExecutorLostError("the device fell off")
            case ["slow", seconds]:
                faults.pause_s = float(seconds)
            case ["check"]:
                line = f"check: {left_of(engine.router)} is left"
        print(f"did {line.strip()}", flush=True)


def main() -> None:
    faults, deploy = Faults(), deployment.deploy

    def deploy_and_obey(*args: Any, **kwargs: Any) -> Any:
        engine = deploy(*args, **kwargs)
        threading.Thread(target=obey, args=(engine, faults), daemon=True).start()
        return engine

    deployment.deploy = deploy_and_obey
    Executor.rank = lambda *args: faults.rank(*args)  # type: ignore[method-assign]
    app()


if __name__ == "__main__":
    main()

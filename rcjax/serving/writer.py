"""Writes: planned on a thread of their own, built on every slice, then swapped in; no thread waits for a slice."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import SimpleQueue

from rcjax.request import DeleteItems, PutItems, PutUser, Write, WriteResult
from rcjax.serving.calls import Call, Calls, check_room
from rcjax.serving.parts import Library, Planner, Worker, WritePlanned
from rcjax.serving.versions import VersionKeeper


class Writer:
    """Applies writes, many at once, so that the blocks of several share passes; those of one user in their order.

    What is put is built on every slice before the library's swap, so that the requests that see it find it. What is
    deleted is swapped out first, so that no new plan names it, and answered once every slice has dropped it. A write
    that nobody waits for any more is dropped if it has not started; else it runs to its end.
    """

    def __init__(
        self,
        planner: Planner,
        workers: Sequence[Worker],
        library: Library,
        versions: VersionKeeper,
        max_queue: int,
        clock: Callable[[], float],
    ):
        self.calls: Calls[Write] = Calls(clock)
        self._planner = planner
        self._workers = workers
        self._library = library
        self._versions = versions
        self._max_queue = max_queue
        self._to_start: SimpleQueue[Call[Write] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._behind: dict[str, deque[Call[Write]]] = {}  # by user with a write under way: those that wait for it
        self._thread = threading.Thread(target=self._start_calls, name="rcjax-writer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._to_start.put(None)

    def submit(self, write: Write, deadline_s: float | None) -> Future[WriteResult]:
        check_room(len(self.calls), self._max_queue)
        call = self.calls.open(write, None, deadline_s)
        user_id = _user_of(write)
        if user_id is not None:
            with self._lock:
                behind = self._behind.get(user_id)
                if behind is not None:
                    behind.append(call)
                    return call.future
                self._behind[user_id] = deque()
        self._to_start.put(call)
        return call.future

    def _start_calls(self) -> None:
        while (call := self._to_start.get()) is not None:
            if self.calls.is_wanted(call):
                self._begin(call)
            else:
                self._let_next(call)

    def _begin(self, call: Call[Write]) -> None:
        try:
            plan: WritePlanned = self._planner.plan_write(call.body)
        except Exception as error:
            self._end(call, error)
            return
        try:
            if plan.drop:  # a deletion, or a history that has become empty
                self._drop(call, plan)
            else:
                self._build(call, plan)
        except Exception as error:
            self._end(call, error, plan)

    def _build(self, call: Call[Write], plan: WritePlanned) -> None:
        if plan.grow_from is not None:
            former, block = plan.grow_from, plan.build[0]
            built = [worker.grow(former, block, plan.version) for worker in self._workers]
        else:
            built = [worker.fill(plan.build, plan.version) for worker in self._workers] if plan.build else []

        def swap(num_built: list[int]) -> None:
            self._library.swap(plan)
            num_tokens = sum(len(planned.block) for planned in plan.build)
            self._end(call, WriteResult(sum(num_built), num_tokens=num_tokens), plan)

        when_all(built, swap, lambda error: self._end(call, error, plan))

    def _drop(self, call: Call[Write], plan: WritePlanned) -> None:
        num_deleted = self._library.swap(plan)
        dropped = [worker.drop(plan.drop, plan.version) for worker in self._workers]
        when_all(
            dropped,
            lambda _: self._end(call, WriteResult(num_deleted=num_deleted), plan),
            lambda error: self._end(call, error, plan),
        )

    def _end(self, call: Call[Write], outcome: WriteResult | Exception, plan: WritePlanned | None = None) -> None:
        if plan is not None:
            self._versions.end_write(plan.version)
        self.calls.close(call, outcome)
        self._let_next(call)

    def _let_next(self, call: Call[Write]) -> None:
        user_id = _user_of(call.body)
        if user_id is None:
            return
        with self._lock:
            behind = self._behind[user_id]
            if not behind:
                del self._behind[user_id]
                return
            following = behind.popleft()
        self._to_start.put(following)


def _user_of(write: Write) -> str | None:
    """The user that a write changes, if it changes one."""
    if isinstance(write, PutItems | DeleteItems):
        return None
    return write.user.user_id if isinstance(write, PutUser) else write.user_id


def when_all(
    futures: Sequence[Future[int]], then: Callable[[list[int]], None], failed: Callable[[Exception], None]
) -> None:
    """Calls `then` with all results once all are there, or `failed` with the first error; in the last one's thread.

    An exception of `then` goes to `failed`.
    """
    left = len(futures)
    lock = threading.Lock()

    def finish() -> None:
        try:
            then([future.result() for future in futures])
        except Exception as error:
            failed(error)

    def on_done(_: Future[int]) -> None:
        nonlocal left
        with lock:
            left -= 1
            is_last = left == 0
        if is_last:
            finish()

    for future in futures:
        future.add_done_callback(on_done)
    if not futures:
        finish()

"""The one synchronous wrapper: an engine in this process, for scripts, commands and notebooks; no event loop needed."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from types import TracebackType
from typing import Any, TypeVar

from rcjax.catalog.types import Event, Item, User
from rcjax.engine.preview import held, preview
from rcjax.engine.validation import check_characters
from rcjax.errors import RcjaxError, UnavailableError
from rcjax.prompt import Block, Prompt
from rcjax.request import (
    AppendEvents,
    DeleteItems,
    DeleteUser,
    EngineInfo,
    EngineStats,
    PutItems,
    PutUser,
    RecommendRequest,
    RecommendResult,
    Write,
    WriteResult,
)
from rcjax.serving.explanation import Explanation, explanation_of
from rcjax.serving.parts import Worker
from rcjax.serving.router import Router

T = TypeVar("T")
CLOSE_GRACE_S = 1.0
MAX_WRITES_UNDER_WAY = 64  # enough to fill a build pass of thousands of tokens; more would only hold memory


class LocalEngine:
    """A router with calls that block until they are done; `router` is what a server serves.

    Its writes are the default tenant's. What is more than one call may carry (`info().limits`) is parted or shortened.
    `text_block` makes the block of a plain text to generate from. Any thread may call this. Failures are `RcjaxError`s;
    a write that fails changes nothing.

    Example:

        >>> known_items, known_users = engine.known()
        >>> known_items == shop.items
        True
        >>> good, bad = engine.recommend([request, RecommendRequest(("no-such-item",), "nobody")])
        >>> isinstance(bad, RcjaxError)
        True
        >>> print(engine.explain(request).blocks[0].kind)
        instruction
    """

    def __init__(self, router: Router, text_block: Callable[[str], Block]):
        self.router = router
        self._text_block = text_block
        self._is_closed = False

    def __enter__(self) -> "LocalEngine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stops the engine; what is under way gets a second to be done.

        Its threads have then ended, and it no longer holds weights or pages, so that there is room for another engine.
        Every later call is refused, but for another `close`, which does nothing.
        """
        if not self._is_closed:
            self._is_closed = True
            self.router.stop(CLOSE_GRACE_S)

    def recommend(self, requests: Sequence[RecommendRequest]) -> list[RecommendResult | RcjaxError]:
        """Ranks each request on its own: a bad one yields its error in its place and harms no other."""
        return [_outcome(future) for future in self.router.submit_planned([self._shortened(one) for one in requests])]

    def put_items(self, items: Iterable[Item]) -> int:
        """Adds or replaces items and builds their KV; returns how many blocks had to be computed.

        Many are put in parts: where one part is refused, the others are there.
        """
        return sum(result.num_built for result in self._apply_parts(PutItems, tuple(items)))

    def delete_items(self, item_ids: Iterable[str]) -> int:
        """Forgets items and frees their KV, many in parts; returns how many existed."""
        return sum(result.num_deleted for result in self._apply_parts(DeleteItems, tuple(item_ids)))

    def put_user(self, user: User) -> None:
        """Adds or replaces a user and builds the KV of their history."""
        self._apply(self.user_write(user))

    def put_users(self, users: Iterable[User]) -> list[WriteResult | RcjaxError]:
        """Puts many users, whose histories share passes; one that is refused yields its error in its place."""
        return list(self.apply_each(map(self.user_write, users)))

    def append_events(self, user_id: str, events: Iterable[Event]) -> None:
        """Appends to a known user's history, extending its cached KV; `NotFoundError` for another."""
        self._apply(AppendEvents(user_id, tuple(events)[-self._max_events :]))

    def delete_user(self, user_id: str) -> bool:
        """Forgets a user, frees their KV and takes out of the semantic pool what they lent; whether they existed."""
        return self._apply(DeleteUser(user_id)).num_deleted > 0

    def user_write(self, user: User) -> PutUser:
        """What puts a user, with as many of the newest events as it may have: more than a history can hold."""
        if len(user.events) > self._max_events:
            user = User(user.user_id, user.events[-self._max_events :])
        return PutUser(user)

    def apply_each(self, writes: Iterable[Write]) -> Iterator[WriteResult | RcjaxError]:
        """Applies many writes, with so many under way that they share passes; yields what became of each, in order."""
        under_way: deque[Future[WriteResult]] = deque()
        for write in writes:
            if len(under_way) == MAX_WRITES_UNDER_WAY:
                yield _outcome(under_way.popleft())
            under_way.append(self.router.submit_write(write))
        while under_way:
            yield _outcome(under_way.popleft())

    def prompt(self, request: RecommendRequest) -> Prompt:
        """The prompt that a request becomes, as `recommend` would build it."""
        with self.router.planned(request) as plan:
            return plan.prompt

    def explain(self, request: RecommendRequest) -> Explanation:
        """The prompt of a request as it would be served now, block by block: what is cached, and who sees whom.

        Nothing is computed, compiled, evicted or counted. It says what is cached where at this moment; a request that
        runs later may find it otherwise.
        """
        plan: Any
        with self.router.planned(self._shortened(request)) as plan:
            wanted, index = plan.wanted, self.router.expected_slice(plan)
            living = {i: worker for i, worker in enumerate(self.router.workers) if not worker.lost.done()}
            looked = {i: worker.call(lambda one: held(one, wanted)) for i, worker in living.items()}
            seen = self.router.workers[index].call(lambda worker: preview(worker, plan)).result()
            found = {i: future.result() for i, future in looked.items()}
            held_by = [tuple(i for i, of_slice in found.items() if of_slice[n]) for n in range(len(wanted))]
            return explanation_of(plan, seen, held_by, index, self.router.planner.decode)

    def generate(self, prompt: str | RecommendRequest, sampling: Any) -> list[int]:
        """Token ids that continue a text, or the prompt of a request (from cached blocks, as its arm says).

        `sampling` is a `rcjax.engine.generation.Sampling`. Raises `InvalidRequestError` where no `generate` shapes are
        configured or none holds the prompt, and for half a surrogate pair in a text.
        """
        worker = self.workers[0]  # any slice can
        if isinstance(prompt, str):
            check_characters(prompt, "prompt")
            return worker.generate(self._text_block(prompt), sampling).result()
        with self.router.planned(prompt) as plan:
            return worker.generate(plan, sampling).result()

    def choose_orders(self, seed: int = 0) -> int:
        """Works out which tokens of each item the `offline` policy shall select; returns for how many of their blocks.

        Nothing happens where no arm has that policy. Call it once items and users are there, as it samples prompts
        of these; from then on `put_items` does the same for what it puts. Items that have an order keep it.
        """
        return sum(_results([worker.choose_orders(seed) for worker in self.workers]))

    def build_semantic_pool(self, seed: int = 0) -> int:
        """Builds the pool of each slice that arms with `history: semantic` borrow from; returns how many prototypes.

        Nothing happens where no arm has it. Call it once users are there, as it samples these, and again after many
        deletions, as what deleted users lent leaves it. Until the first call such arms compute histories.
        """
        return sum(_results([worker.build_semantic_pool(seed) for worker in self.workers]))

    def call_workers(self, task: Callable[[Any], T]) -> list[T]:
        """What `task` returns for the worker of each slice, on its thread, between two passes."""
        return _results([worker.call(task) for worker in self.workers])

    @property
    def workers(self) -> list[Worker]:
        """Those of the slices that are not lost; `UnavailableError` where all are."""
        workers = [worker for worker in self.router.workers if not worker.lost.done()]
        if not workers:
            raise UnavailableError("every slice of this engine is lost; start another")
        return workers

    def known(self) -> tuple[dict[str, Item], set[str]]:
        """The items by id, and the ids of the users, that this engine has of the default tenant."""
        library: Any = self.router.library
        items = {one.id: stored.content for one, stored in library.items().items() if not one.tenant}
        return items, {one.id for one in library.users() if not one.tenant}

    def info(self) -> EngineInfo:
        return self.router.info

    def stats(self) -> EngineStats:
        return self.router.current_stats()

    @property
    def _max_events(self) -> int:
        return self.info().limits.max_events

    def _shortened(self, request: RecommendRequest) -> RecommendRequest:
        """The request with as many of the newest events as it may have."""
        if request.history is None or len(request.history) <= self._max_events:
            return request
        return replace(request, history=request.history[-self._max_events :])

    def _apply(self, write: Write) -> WriteResult:
        return self.router.submit_write(write).result()

    def _apply_parts(self, kind: Callable[[tuple[Any, ...]], Write], values: tuple[Any, ...]) -> list[WriteResult]:
        """Writes the values, as many at a time as one write may have; raises the first error once all are done."""
        size = self.info().limits.max_items
        outcomes = list(self.apply_each(kind(values[at : at + size]) for at in range(0, len(values) or 1, size)))
        for outcome in outcomes:
            if isinstance(outcome, RcjaxError):
                raise outcome
        return [outcome for outcome in outcomes if isinstance(outcome, WriteResult)]


def _outcome(future: Future[Any]) -> Any:
    """What a call gave, or its error; every failure of a router's call is an `RcjaxError`."""
    try:
        return future.result()
    except RcjaxError as error:
        return error


def _results(futures: Sequence[Future[T]]) -> list[T]:
    return [future.result() for future in futures]

"""The state of a request between its plan and its answer."""

import logging
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any

from rcjax.cache.semantic import Match, SemanticPool
from rcjax.engine.assembly import Row
from rcjax.engine.claim import Claim
from rcjax.engine.plan import Plan
from rcjax.engine.request_id import current_request_id
from rcjax.engine.selector import PinnedPrompt
from rcjax.engine.shape import RowSize
from rcjax.errors import DeadlineExceededError, RcjaxError
from rcjax.request import RecommendResult

logger = logging.getLogger(__name__)


class Stage(IntEnum):
    """Where a request stands: it only moves on, and from any stage may be done."""

    PLANNED = 0  # waits for pages
    BUILDING = 1  # pinned what it needs; some of that is being computed or fetched
    READY = 2  # waits for a pass
    RUNNING = 3
    DONE = 4  # answered or given up; nothing of it is pinned


def claim_of(plan: Plan) -> Claim:
    """A claim on every block that a request takes from the cache."""
    return Claim(plan.wanted, plan.version, is_urgent=True)


@dataclass(frozen=True, slots=True, eq=False)
class Loan:
    """What a semantic pool has for a history, to be put into the scratch pages of its request's claim."""

    index: int  # of the history among the prompt's blocks
    match: Match
    pool: SemanticPool


@dataclass(eq=False, slots=True)
class RequestState:
    """A request on a slice. Times are on the worker's clock; only the worker's thread changes it."""

    plan: Plan
    arrival_s: float
    deadline_s: float | None
    future: Future[RecommendResult]
    claim: Claim
    stage: Stage = Stage.PLANNED
    row: Row | None = None  # of the ranking pass, where no probe has to choose first
    prompt: PinnedPrompt | None = None
    loan: Loan | None = None
    extra_fresh: int = 0  # tokens that the plan takes for cached, and nothing had KV for
    is_alone: bool = False  # a batch with it failed, so it runs by itself
    granted_s: float = 0.0
    ready_s: float = 0.0
    request_id: str = field(default_factory=current_request_id)  # of whoever hands it over

    @property
    def size(self) -> RowSize:
        """Of its row of the ranking pass, as far as that is known."""
        if self.row is not None:
            return self.row.size
        planned = self.plan.size
        return replace(planned, fresh_tokens=planned.fresh_tokens + self.extra_fresh) if self.extra_fresh else planned

    def is_dead(self, now_s: float) -> bool:
        """Whether nobody waits for it any more; whoever let its deadline pass is told so."""
        return is_given_up(self.future, self.deadline_s, now_s)


def is_given_up(future: Future[Any], deadline_s: float | None, now_s: float) -> bool:
    """Whether a caller cancelled, was told something already, or let the deadline pass; of the last they are told."""
    if future.done():
        return True
    if deadline_s is None or now_s < deadline_s:
        return False
    fail(future, DeadlineExceededError("the deadline passed before the answer was there"))
    return True


def resolve(future: Future[Any], value: Any) -> None:
    """Answers, unless the caller gave up or was told something already, perhaps by another thread just now."""
    with suppress(InvalidStateError):
        future.set_result(value)


def fail(future: Future[Any], error: BaseException) -> None:
    """Answers with an error, as `resolve` does."""
    with suppress(InvalidStateError):
        future.set_exception(error)


def pass_on(ended: Future[Any], future: Future[Any]) -> None:
    """Answers with the outcome of `ended`, as `resolve` and `fail` do; with nothing where that was cancelled."""
    if ended.cancelled():
        return
    error = ended.exception()
    if error is None:
        resolve(future, ended.result())
    else:
        fail(future, error)


def public(error: BaseException, request_id: str = "") -> RcjaxError:
    """What a caller may know of `error`; what they may not is logged."""
    if isinstance(error, RcjaxError):
        return error
    logger.error("a request failed", exc_info=error, extra={"request_id": request_id})
    return RcjaxError("internal error; the server's log has the details")

"""Statistics of an engine: what was answered, and what its slices, their dispatcher and the library say of now."""

import threading
from collections.abc import Sequence

from rcjax.request import EngineStats, RecommendResult, SliceStats, TokenCounts
from rcjax.serving.answer_times import AnswerTimes, AnswerTimesRead
from rcjax.serving.dispatch import Dispatcher, SliceWork
from rcjax.serving.parts import Library, Tiers, Worker, WorkerStats

SUMMED = (
    "num_hits",
    "num_misses",
    "num_evictions",
    "num_replica_hits",
    "num_fetched",
    "num_from_host",
    "num_from_disk",
    "fetched_bytes",
    "from_host_bytes",
    "from_disk_bytes",
    "spilled_bytes",
)  # counters of a slice, dead or not, that an engine has the sum of


class Totals:
    """What was answered so far; any thread adds to it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_requests = 0
        self._num_failed = 0
        self._tokens = TokenCounts()
        self._times = AnswerTimes()

    def add(self, outcome: RecommendResult | list[int] | BaseException, seconds: float) -> None:
        """An outcome that a caller was told, `seconds` after the request came."""
        with self._lock:
            self._num_requests += 1
            self._times.add(outcome, seconds)
            if isinstance(outcome, RecommendResult):
                self._tokens += outcome.tokens
            elif isinstance(outcome, BaseException):
                self._num_failed += 1

    def read(self) -> tuple[int, int, TokenCounts]:
        """Requests, those of them that failed, and the tokens of the others."""
        with self._lock:
            return self._num_requests, self._num_failed, self._tokens

    def times(self) -> AnswerTimesRead:
        with self._lock:
            return self._times.read()


def engine_stats(
    library: Library,
    workers: Sequence[Worker],
    dispatcher: Dispatcher,
    totals: Totals,
    tiers: Tiers | None,
    num_compilations: int,
) -> EngineStats:
    work, stats = dispatcher.work(), [worker.stats for worker in workers]
    living = [one for one, given in zip(stats, work, strict=True) if given.state.is_alive]
    num_requests, num_failed, tokens = totals.read()
    return EngineStats(
        num_items=library.num_items,
        num_users=library.num_users,
        num_requests=num_requests,
        num_failed=num_failed,
        num_compilations=num_compilations,
        pages_total=sum(one.pages_total for one in living),
        pages_used=sum(one.pages_used for one in living),
        pool_bytes=sum(one.pool_bytes for one in living),
        tokens=tokens,
        slices=tuple(map(_slice_stats, stats, work)),
        policy=dispatcher.policy.name,
        num_decisions=dispatcher.num_decisions,
        num_retries=dispatcher.num_retries,
        imbalance=imbalance(work),
        host_bytes_used=0 if tiers is None else tiers.host_bytes_used,
        disk_bytes_used=0 if tiers is None else tiers.disk_bytes_used,
        num_corrupt=0 if tiers is None else tiers.num_corrupt,
        **{name: sum(getattr(one, name) for one in stats) for name in SUMMED},
    )


def _slice_stats(stats: WorkerStats, work: SliceWork) -> SliceStats:
    return SliceStats(
        state=str(work.state),
        queue_s=work.queue_s,
        num_under_way=work.num_under_way,
        num_requests=work.num_requests,
        pages_total=stats.pages_total,
        pages_used=stats.pages_used,
        lent_bytes=stats.lent_bytes,  # not summed, as they are what others fetched
        **{name: getattr(stats, name) for name in SUMMED},
    )


def imbalance(work: Sequence[SliceWork]) -> float:
    """The most seconds of work that a living slice was given, over their mean; 1 where none was given any."""
    given_s = [one.given_s for one in work if one.state.is_alive]
    return max(given_s) * len(given_s) / sum(given_s) if sum(given_s) else 1.0

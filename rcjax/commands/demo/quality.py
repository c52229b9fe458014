"""How well the demo's model ranks, in full and from cached blocks, and what each takes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from rcjax.catalog import Request
from rcjax.config import ArmSettings, Settings
from rcjax.errors import InvalidRequestError, RcjaxError
from rcjax.evaluation.arms import References, compared_arms
from rcjax.evaluation.baselines import bounds
from rcjax.evaluation.dataset import Dataset
from rcjax.evaluation.gate import METRIC
from rcjax.evaluation.runner import ArmRun, Outcome, outcome_of
from rcjax.evaluation.summary import ArmSummary, summarise
from rcjax.prompt import Reuse
from rcjax.request import RecommendRequest
from rcjax.serving.local import LocalEngine

Clock = Callable[[], float]

BATCH = 8  # users whose histories are computed together
CACHED_SHARE = 0.6  # of the time that there is; full recompute gets what is left of it
NUM_RESAMPLES = 2_000  # an interval within two digits, in no time


@dataclass(frozen=True, slots=True)
class Row:
    """A ranker or a bound: NDCG@10 over so many requests, with its 95% interval and seconds where there are any."""

    name: str
    num_requests: int
    ndcg: float
    interval: tuple[float, float] | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Quality:
    """What was measured.

    Arms `cached` and `full` show the model the same prompt: from cached blocks, and recomputed in full. `rows` are the
    best possible, these two, and chance, each over all requests that were asked of it: of `num_wanted`, the first that
    there was time for. In full these may be fewer; `summaries` and `same` are both arms on them, so that they can be
    compared. The KV of the shoppers' histories took `histories_s`, once.
    """

    cached: str
    full: str
    rows: tuple[Row, ...]
    num_wanted: int
    summaries: dict[str, ArmSummary]
    same: Row
    histories_s: float
    errors: tuple[RcjaxError, ...]

    @property
    def share(self) -> float:
        """How far the cached arm is on the way from chance (0) to the best possible (1)."""
        best, _, cached, chance = (row.ndcg for row in self.rows)
        return (cached - chance) / (best - chance)


@dataclass(slots=True, eq=False)
class _Asked:
    """What an arm gave to the first so many requests, and the seconds that each took."""

    arm: str
    outcomes: list[Outcome | RcjaxError] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def first(self, number: int) -> "_Asked":
        return _Asked(self.arm, self.outcomes[:number], self.seconds[:number])


def cached_and_full(settings: Settings) -> tuple[str, str, dict[str, ArmSettings]]:
    """The arm whose quality is measured, its full recompute, and all arms that the engine needs.

    It is the default arm, or the first that takes items from the cache; ValueError where there is none.
    """
    names = sorted(settings.arms, key=lambda name: name != settings.default_arm)
    cached = next((name for name in names if settings.arms[name].reuse is Reuse.BLOCKS), None)
    if cached is None:
        raise ValueError("no arm of the settings has reuse: blocks, so there is nothing to show; add one")
    needed, references = compared_arms(settings, [cached])
    full = references[cached]
    assert full is not None
    return cached, full, {**settings.arms, full: needed[full]}


def measure(
    engine: LocalEngine,
    dataset: Dataset,
    cached: str,
    full: str,
    *,
    seconds: float,
    clock: Clock,
    advance: Callable[[str], None] = lambda arm: None,
) -> Quality:
    """Asks every request of both arms, one after the other, for so many seconds at most; at least one of each.

    Cached blocks come first, and take no more than their share. The candidates must be in the engine; shoppers are put
    and forgotten. `advance` is told the arm after each answer.
    """
    requests, users = dataset.asked.requests, dataset.asked.users
    begun_s, histories_s = clock(), 0.0
    by_cache, in_full = _Asked(cached), _Asked(full)
    for at in range(0, len(requests), BATCH):
        if at and clock() - begun_s > CACHED_SHARE * seconds:
            break
        group = requests[at : at + BATCH]
        start_s = clock()
        engine.put_users(users[request.user_id] for request in group)
        histories_s += clock() - start_s
        for request in group:
            _ask(engine, by_cache, request, RecommendRequest(request.candidates, request.user_id, arm=cached), clock)
            advance(cached)
        for request in group:
            engine.delete_user(request.user_id)
    for request in requests[: len(by_cache.outcomes)]:
        if in_full.outcomes and clock() - begun_s > seconds:
            break
        history = users[request.user_id].events  # sent along, so that nothing is computed beforehand
        _ask(engine, in_full, request, RecommendRequest(request.candidates, history=history, arm=full), clock)
        advance(full)
    return _quality(dataset, by_cache, in_full, histories_s)


def _ask(engine: LocalEngine, asked: _Asked, request: Request, ask: RecommendRequest, clock: Clock) -> None:
    start_s = clock()
    (result,) = engine.recommend([ask])
    asked.seconds.append(clock() - start_s)
    asked.outcomes.append(outcome_of(result, request))


def _quality(dataset: Dataset, cached: _Asked, full: _Asked, histories_s: float) -> Quality:
    requests = dataset.asked.requests[: len(cached.outcomes)]
    same = cached.first(len(full.outcomes))
    for asked in (same, full):
        if all(isinstance(outcome, RcjaxError) for outcome in asked.outcomes):
            which = f"none of {len(asked.outcomes)} requests"
            raise InvalidRequestError(f"arm {asked.arm!r} answered {which}: {asked.outcomes[0]}")
    alone = _summaries([cached], {cached.arm: None}, requests)
    pair = _summaries([full, same], {full.arm: None, cached.arm: full.arm}, requests[: len(full.outcomes)])
    asked_for = replace(dataset, asked=replace(dataset.asked, requests=requests))
    bound = {name: Row(name, len(requests), values[METRIC]) for name, values in bounds(asked_for).items()}
    rows = (bound["best possible"], _row(full, pair), _row(cached, alone), bound["chance"])
    errors = tuple(one for asked in (cached, full) for one in asked.outcomes if isinstance(one, RcjaxError))
    num_wanted = len(dataset.asked.requests)
    return Quality(cached.arm, full.arm, rows, num_wanted, pair, _row(same, pair), histories_s, errors)


def _summaries(arms: Sequence[_Asked], references: References, requests: Sequence[Request]) -> dict[str, ArmSummary]:
    runs = {asked.arm: ArmRun([asked.outcomes]) for asked in arms}
    return summarise(runs, references, requests, num_resamples=NUM_RESAMPLES)


def _row(asked: _Asked, summaries: dict[str, ArmSummary]) -> Row:
    ndcg = summaries[asked.arm].metrics[METRIC]
    return Row(asked.arm, len(asked.outcomes), ndcg.value, (ndcg.low, ndcg.high), sum(asked.seconds))

"""The ranker: runs the pass of a batch of requests, and turns its logits into answers."""

import logging
import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rcjax.engine.assembly import Row, assemble
from rcjax.engine.executor import Executor, Pending
from rcjax.engine.origin import Origin
from rcjax.engine.selector import PinnedPrompt, Selector
from rcjax.engine.shape import Shape, ShapeSet
from rcjax.engine.state import RequestState
from rcjax.engine.token_tally import TokenTally
from rcjax.errors import RcjaxError
from rcjax.model.scoring import Scorer
from rcjax.request import RankedItem, RecommendResult, StageTimes, TokenCounts

logger = logging.getLogger(__name__)

Answer = RecommendResult | RcjaxError


class Ranker:
    """Ranks requests of one arm whose blocks are pinned. `clock` gives seconds."""

    def __init__(
        self,
        executor: Executor,
        selector: Selector,
        shapes: ShapeSet,
        scorer: Scorer,
        *,
        page_tokens: int,
        num_reads: int,
        clock: Callable[[], float],
    ):
        self.shapes = shapes
        self.selector = selector
        self.tokens = TokenTally()
        self._executor = executor
        self._scorer = scorer
        self._page_tokens = page_tokens
        self._num_reads = num_reads
        self._clock = clock

    def rank(self, states: Sequence[RequestState], shape: Shape) -> Generator[Pending[Any], Any, list[Answer]]:
        """An answer for each request; yields the passes that it waits for.

        Raises `InvalidRequestError` where selection made a row that no shape holds.
        """
        start_s = self._clock()
        rows, num_probed, shape = yield from self._rows(states, shape)
        selected_s = self._clock() if any(num_probed) else start_s
        tables = [_table(state) for state in states]
        batch = assemble(rows, tables, shape, self._page_tokens, self._num_reads)
        assembled_s = self._clock()
        logits = yield self._executor.rank(batch, shape)
        extended_s = self._clock()
        assembly_s = (assembled_s - selected_s) / len(states)
        times = _PassTimes(selected_s - start_s, assembly_s, extended_s - assembled_s, extended_s)
        return [
            self._answer(state, row, logits[b], num_probed[b], times)
            for b, (state, row) in enumerate(zip(states, rows, strict=True))
        ]

    def _rows(
        self, states: Sequence[RequestState], shape: Shape
    ) -> Generator[Pending[Any], Any, tuple[list[Row], list[int], Shape]]:
        known = [state.row for state in states if state.row is not None]
        if len(known) == len(states):
            return known, [0] * len(states), shape
        prompts = [pinned_prompt(state, self._page_tokens) for state in states]
        rows, num_probed = yield from self.selector.rows(states[0].plan.arm.selection, prompts)
        shape = self.shapes.fit([row.size for row in rows])
        return rows, num_probed, shape

    def _answer(
        self, state: RequestState, row: Row, logits: np.ndarray, num_probed: int, of_pass: "_PassTimes"
    ) -> Answer:
        plan = state.plan
        scores = self._scorer.scores(logits, plan.arm.scoring, len(plan.item_ids))
        values: list[float] = scores.tolist()
        if not all(map(math.isfinite, values)):
            about = {"request_id": state.request_id}
            logger.error("the model gave scores that are not finite for %s: %s", plan.item_ids, scores, extra=about)
            return RcjaxError("the model gave scores that are not finite numbers for this request")
        ids = plan.item_ids
        order = sorted(range(len(values)), key=values.__getitem__, reverse=True)  # stable: the earlier wins a tie
        best = order[: plan.request.top_k or None]
        ranking = tuple([RankedItem(ids[i], values[i], rank) for rank, i in enumerate(best, start=1)])
        self.tokens.add(row, state.claim, state.prompt.unmatched if state.prompt is not None else {})
        times = _stage_times(state, of_pass, self._clock())
        return RecommendResult(ranking, token_counts(state, row, num_probed), times, plan.request.arm)


@dataclass(frozen=True, slots=True)
class _PassTimes:
    """Where the time of a batch went, and when its logits were there."""

    probe_s: float
    assembly_s: float  # a request's share
    extend_s: float
    extended_s: float


def _stage_times(state: RequestState, of_pass: _PassTimes, end_s: float) -> StageTimes:
    """A request's time by stage; what is no stage it spent waiting."""
    plan_s = state.plan.plan_s + of_pass.assembly_s
    build_s = state.ready_s - state.granted_s
    readout_s = end_s - of_pass.extended_s
    ttft_s = end_s - state.arrival_s
    queue_s = max(0.0, ttft_s - plan_s - build_s - of_pass.probe_s - of_pass.extend_s - readout_s)
    return StageTimes(
        queue_ms=queue_s * 1e3,
        plan_ms=plan_s * 1e3,
        build_ms=build_s * 1e3,
        probe_ms=of_pass.probe_s * 1e3,
        extend_ms=of_pass.extend_s * 1e3,
        readout_ms=readout_s * 1e3,
        ttft_ms=ttft_s * 1e3,
    )


def pinned_prompt(state: RequestState, page_tokens: int) -> PinnedPrompt:
    """The request's prompt with the blocks that it holds."""
    if state.prompt is not None:
        return state.prompt
    cached = dict(zip(state.plan.cached, state.claim.pins, strict=True))
    return PinnedPrompt(state.plan.prompt, cached, page_tokens)


def token_counts(state: RequestState, row: Row, num_probed: int) -> TokenCounts:
    """Where the tokens of a row came from; those that the semantic pool had no KV for are fresh, not selected."""
    unmatched = state.prompt.unmatched if state.prompt is not None else {}
    num_selected = row.num_selected - sum(map(len, unmatched.values()))
    lent = [row.sources[index] for index in unmatched]
    return TokenCounts(
        cached=row.num_cached,
        selected=num_selected,
        fresh=row.num_fresh - num_selected,
        built=state.claim.num_tokens_from(Origin.BUILT),
        probed=num_probed,
        semantic=sum(source.num_cached - len(source.selected) for source in lent),
        fetched=state.claim.num_tokens_from(Origin.SLICE),
        host=state.claim.num_tokens_from(Origin.HOST),
        disk=state.claim.num_tokens_from(Origin.DISK),
    )


def _table(state: RequestState) -> list[Sequence[int]]:
    """The pages of each cached block, in prompt order."""
    if state.prompt is not None:
        return state.prompt.table
    return [block.pages for block in state.claim.pins]

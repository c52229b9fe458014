"""A preview: what a slice has of a request's blocks, and which tokens its pass would compute. Nothing is changed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rcjax.cache import CachedBlock
from rcjax.engine.assembly import NOTHING, Row
from rcjax.engine.plan import Plan, PlannedBlock
from rcjax.engine.selector import PinnedPrompt, stored_scores
from rcjax.engine.source_plan import no_scores
from rcjax.engine.worker import SliceWorker


@dataclass(frozen=True, slots=True, eq=False)
class Preview:
    """A request as a slice would serve it.

    Where a probe measures what is selected, `row` selects nothing, and the pass will compute `num_to_select` of its
    cached tokens again. `unmatched` are, by block, the tokens of a borrowed history that the pool has no KV for: `row`
    selects them, and they are computed. `window` is the model's: how many positions a token sees at most.
    """

    row: Row
    num_to_select: int
    unmatched: Mapping[int, np.ndarray]
    window: int | None


def held(worker: SliceWorker, wanted: Sequence[PlannedBlock]) -> list[bool]:
    """Which of the blocks the slice holds. On the worker's thread, as `preview`."""
    find = worker.cache.directory.find
    return [find(planned.key, planned.block.token_ids) is not None for planned in wanted]


def preview(worker: SliceWorker, plan: Plan) -> Preview:
    """Takes the steps of a request that need no pages, no pins and no pass: to be called on the worker's thread."""
    prompt = plan.prompt
    cached = {index: _as_if_cached(worker, planned) for index, planned in zip(plan.cached, plan.wanted, strict=True)}
    unmatched = {}
    borrowed = None if worker.semantic is None else worker.semantic.match(plan)
    if borrowed is not None:
        index, match = borrowed
        if match.taken.any():
            unmatched[index] = match.fresh_offsets
            prompt = replace(prompt, has_exact_history=False)
        else:
            del cached[index]
    page_tokens = worker.cache.page_tokens
    pinned = PinnedPrompt(prompt, cached, page_tokens, unmatched)
    row, num_to_select = _selected(pinned, plan)
    return Preview(row, num_to_select, unmatched, worker.cache.executor.programs.config.sliding_window)


def _selected(pinned: PinnedPrompt, plan: Plan) -> tuple[Row, int]:
    """The row, and how many of its cached tokens are to be selected by what has not been measured yet."""
    policy, tokens = plan.arm.selection, pinned.tokens()
    nothing = pinned.row([NOTHING] * len(pinned.cached))
    if policy.measures and not tokens.num_correctable:
        return nothing, 0
    if not any(measure.is_probe for measure in policy.measures):
        stored = stored_scores(pinned.cached.values()) if policy.measures else NOTHING
        return pinned.row(policy.choose(tokens, [stored for _ in policy.measures])), 0
    as_many = pinned.row(policy.choose(tokens, no_scores(policy, len(tokens))))
    return nothing, as_many.num_selected - nothing.num_selected


def _as_if_cached(worker: SliceWorker, planned: PlannedBlock) -> CachedBlock:
    """The block as a request would find it, or compute it: with the order of correction that is stored for it."""
    directory, block = worker.cache.directory, planned.block
    found = directory.find(planned.key, block.token_ids)
    stored = directory.orders().get(planned.key)
    order = found.order if found is not None else stored.order if stored is not None else None
    return CachedBlock(planned.key, block.kind, block.owner, block.token_ids, (), 0.0, order=order)

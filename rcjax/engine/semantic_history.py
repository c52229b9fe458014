"""Semantic histories: KV from other users' histories, for those whose own is not in cache.

Zhao et al., "RcLLM", arXiv 2605.07443, III-B; `rcjax.cache.semantic` has the pool, docs/semantic-history.md the cost.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Shaped

from rcjax.cache import CachedBlock
from rcjax.cache.semantic import InstanceFields, Match, SemanticPool, TokenEmbedding
from rcjax.engine.block_cache import BlockCache
from rcjax.engine.claim import Claim
from rcjax.engine.plan import PlannedBlock
from rcjax.engine.planner import Planner
from rcjax.engine.selector import PinnedPrompt
from rcjax.engine.state import Loan, RequestState, claim_of
from rcjax.engine.tasks import Steps
from rcjax.errors import ResourceExhaustedError
from rcjax.prompt import BlockKind, History

_log = logging.getLogger(__name__)


class SemanticHistories:
    """A pool of KV that some of the library's users lend, and scratch pages to put it in.

    What is lent is never found by the key of the history that borrows it. The pool holds traces of the users whose
    histories it was built from, deleted ones too, until it is built anew. The worker's thread uses it.
    """

    def __init__(
        self,
        cache: BlockCache,
        planner: Planner,
        decode: Callable[[list[int]], str],
        *,
        max_history_tokens: int,
        num_sampled_users: int,
        max_prototypes: int,
        min_similarity: float,
    ):
        self._cache = cache
        self._planner = planner
        self._fields = InstanceFields(decode)
        self._max_history_tokens = max_history_tokens
        self._num_sampled_users = num_sampled_users
        self._max_prototypes = max_prototypes
        self._min_similarity = min_similarity
        self._pool: SemanticPool | None = None
        self._sampled: frozenset[str] = frozenset()

    def build(self, seed: int) -> Steps[int]:
        """Builds the pool from the exact KV of users drawn from the library; returns the number of its prototypes.

        It replaces a former pool. Histories that miss are computed, one at a time. Without users there is no pool.
        """
        self._pool, self._sampled = None, frozenset()
        known = self._planner.library.user_ids
        drawn = np.random.default_rng(seed).permutation(len(known))[: self._num_sampled_users]
        users = [known[i] for i in drawn]
        found = [planned for user_id in users if (planned := self._planner.history_block(user_id)) is not None]
        blocks = {planned.block.token_ids.tobytes(): planned for planned in found if len(planned.block)}
        if not blocks:
            return 0
        start = next(iter(blocks.values())).block.start
        building = SemanticPool.building(
            [planned.block.token_ids for planned in blocks.values()],
            TokenEmbedding.of(self._cache.executor.embedding, max_position=start + self._max_history_tokens),
            self._fields,
            instruction_key=self._cache.keys.instruction,
            start=start,
            max_prototypes=self._max_prototypes,
            seed=seed,
        )
        kv = None
        while True:
            try:
                wanted = building.send(kv)
            except StopIteration as end:
                self._pool, self._sampled = end.value, frozenset(users)
                return self._pool.num_prototypes
            kv = yield from exact_kv(self._cache, blocks[wanted.tobytes()])

    def note_dropped(self, names: Sequence[tuple[BlockKind, str]]) -> None:
        """Warns where the pool still holds traces of a user who was deleted."""
        if any(kind is BlockKind.HISTORY and owner in self._sampled for kind, owner in names):
            _log.warning("the semantic pool holds traces of a deleted user; call build_semantic_pool to be rid of them")

    def lend(self, state: RequestState) -> bool:
        """Puts what the pool has for a request's history into scratch pages, and takes the history out of its claim.

        Nothing happens where the arm wants exact histories, this one is in cache, or there is no pool. False where
        pages lack for now; raises `ResourceExhaustedError` where waiting would not help.
        """
        if state.loan is not None:  # of an earlier try, which found no pages for the others
            state.loan, state.extra_fresh, state.claim = None, 0, claim_of(state.plan)
        index = self._borrower(state)
        if self._pool is None or index is None:
            return True
        history = state.plan.prompt.blocks[index]
        match = self._pool.lookup(history.token_ids, min_similarity=self._min_similarity)
        lent = None
        if match.taken.any():
            scratch = self._fill_scratch(match)
            if scratch is None:
                return False
            state.scratch.append(scratch)
            lent = CachedBlock(b"", history.kind, history.owner, history.token_ids, scratch.pages, 0.0)
        keys = zip(state.plan.cached, state.plan.keys, strict=True)
        others = [PlannedBlock(state.plan.prompt.blocks[i], key) for i, key in keys if i != index]
        state.claim = Claim(others, state.plan.version, is_urgent=True)
        state.loan = Loan(index, lent, match.fresh_offsets)
        state.extra_fresh = len(history) if lent is None else len(match.fresh_offsets)
        return True

    def complete(self, state: RequestState) -> None:
        """Puts a loan into the request's prompt, once its other blocks are there; nothing for others."""
        loan = state.loan
        if loan is None:
            return
        plan = state.plan
        pins = iter(state.claim.pins)
        cached = {i: loan.block if i == loan.index else next(pins) for i in plan.cached}
        held = {i: block for i, block in cached.items() if block is not None}
        unmatched = {} if loan.block is None else {loan.index: loan.fresh_offsets}
        prompt = replace(plan.prompt, has_exact_history=not unmatched)
        state.prompt = PinnedPrompt(prompt, held, self._cache.page_tokens, unmatched)
        if not plan.arm.selection.measures:
            state.row = state.prompt.row(plan.arm.selection.choose(state.prompt.tokens()))

    def _borrower(self, state: RequestState) -> int | None:
        """The block of a history that its arm lets borrow and that is not in cache."""
        plan = state.plan
        if plan.arm.history is History.EXACT:
            return None
        for index, key in zip(plan.cached, plan.keys, strict=True):
            block = plan.prompt.blocks[index]
            if block.kind is BlockKind.HISTORY:
                current = self._cache.directory.current(block.kind, block.owner)
                return None if current is not None and current.key == key else index
        return None

    def _fill_scratch(self, match: Match) -> CachedBlock | None:
        """Pages that hold what was lent; None where they lack for now."""
        directory = self._cache.directory
        try:
            scratch = directory.reserve_scratch(directory.pool.pages_for(len(match.taken)))
        except ResourceExhaustedError:
            if self._cache.num_claims:
                return None
            raise
        assert self._pool is not None  # it made the match
        try:
            self._cache.executor.write_pages(scratch.pages, self._pool.pages(match, directory.pool.page_tokens))
        except BaseException:
            directory.release(scratch)
            raise
        return scratch


def exact_kv(
    cache: BlockCache, planned: PlannedBlock
) -> Steps[tuple[Shaped[np.ndarray, "L T K H"], Shaped[np.ndarray, "L T K H"]]]:
    """K (unrotated) and V of a block right after the instruction, computed where the cache does not hold it."""
    claim = Claim([planned], 0, is_urgent=False)
    yield claim
    try:
        pages = cache.executor.read_pages(claim.pins[0].pages)
    finally:
        cache.release(claim)
    layers, _, _, *heads = pages.k.shape
    k, v = (np.asarray(some).reshape(layers, -1, *heads)[:, : len(planned.block)] for some in (pages.k, pages.v))
    return k, v

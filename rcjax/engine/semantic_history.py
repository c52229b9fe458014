"""Semantic histories: KV from other users' histories, for those whose own is not in cache.

Zhao et al., "RcLLM", arXiv 2605.07443, III-B; `rcjax.cache.semantic` has the pool, docs/semantic-history.md the cost.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped

from rcjax.cache import CachedBlock
from rcjax.cache.semantic import InstanceFields, Match, SemanticPool, TokenEmbedding
from rcjax.engine.block_cache import BlockCache
from rcjax.engine.claim import Claim
from rcjax.engine.plan import Plan, PlannedBlock
from rcjax.engine.selector import PinnedPrompt
from rcjax.engine.state import Loan, RequestState, claim_of
from rcjax.engine.tasks import Steps
from rcjax.kernels.kv import KVPages, quantise_pages
from rcjax.kernels.selective_attention import Rope
from rcjax.model.rope import turned, turned_back
from rcjax.prompt import BlockKind, History, Owner

if TYPE_CHECKING:
    from rcjax.engine.planner import Planner  # which plans generations too, and so imports what generates

BFLOAT16 = jnp.dtype(jnp.bfloat16)

_log = logging.getLogger(__name__)


class SemanticHistories:
    """A pool of KV that some of the library's users lend, and scratch pages to put it in.

    What is lent is never found by the key of the history that borrows it. What a user lends leaves the pool with that
    user, unless another one who is there has the very same history. The worker's thread uses it.
    """

    def __init__(
        self,
        cache: BlockCache,
        planner: "Planner",
        decode: Callable[[list[int]], str],
        rope: Rope,
        *,
        max_history_tokens: int,
        num_sampled_users: int,
        max_prototypes: int,
        min_similarity: float,
    ):
        self._cache = cache
        self._planner = planner
        self._fields = InstanceFields(decode)
        self._rope = rope
        self._max_history_tokens = max_history_tokens
        self._num_sampled_users = num_sampled_users
        self._max_prototypes = max_prototypes
        self._min_similarity = min_similarity
        self._pool: SemanticPool | None = None
        self._lenders: list[set[Owner]] = []  # the users of each history that the pool was built from

    def build(self, seed: int) -> Steps[int]:
        """Builds the pool from the exact KV of users drawn from the library; returns the number of its prototypes.

        It replaces a former pool. Histories that miss are computed, one at a time. Without users there is no pool.
        """
        self._pool, self._lenders = None, []
        known = self._planner.library.user_owners
        drawn = np.random.default_rng(seed).permutation(len(known))[: self._num_sampled_users]
        users = [known[i] for i in drawn]
        blocks: dict[bytes, PlannedBlock] = {}
        lenders: dict[bytes, set[Owner]] = {}
        for user in users:
            planned = self._planner.history_block(user)
            if planned is not None and len(planned.block):
                blocks[planned.block.token_ids.tobytes()] = planned
                lenders.setdefault(planned.block.token_ids.tobytes(), set()).add(user)
        if not blocks:
            return 0
        self._lenders = list(lenders.values())  # from here on, as a user may be deleted before all is computed
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
                self._pool = end.value
                self._forget_deserted()
                return 0 if self._pool is None else self._pool.num_prototypes
            kv = yield from exact_kv(self._cache, blocks[wanted.tobytes()], self._rope)

    def drop(self, names: Sequence[tuple[BlockKind, Owner]]) -> None:
        """Takes what users lent who are deleted out of the pool; requests that have it in their pages go on."""
        gone = {owner for kind, owner in names if kind is BlockKind.HISTORY}
        if any(lenders & gone for lenders in self._lenders):
            for lenders in self._lenders:
                lenders -= gone
            self._forget_deserted()

    def _forget_deserted(self) -> None:
        """Takes histories without users out of the pool."""
        deserted = [index for index, lenders in enumerate(self._lenders) if not lenders]
        if self._pool is None or not np.isin(self._pool.prototypes.histories, deserted).any():
            return
        former = self._pool.num_prototypes
        pool = self._pool.without(deserted)
        self._pool = pool if pool.num_prototypes else None
        _log.info("the semantic pool lost %d prototypes of deleted users", former - pool.num_prototypes)

    def borrow(self, state: RequestState) -> None:
        """Looks up what the pool has for a request's history, and has its claim ask for pages to put that in.

        Nothing happens where the arm wants exact histories, this one is in cache, or there is no pool.
        """
        if state.loan is not None:  # of an earlier try, which found no pages
            state.loan, state.extra_fresh, state.claim = None, 0, claim_of(state.plan)
        found = self.match(state.plan)
        if self._pool is None or found is None:
            return
        index, match = found
        history = state.plan.prompt.blocks[index]
        num_taken = int(match.taken.sum())
        others = [planned for i, planned in zip(state.plan.cached, state.plan.wanted, strict=True) if i != index]
        num_pages = self._cache.directory.pool.pages_for(len(history)) if num_taken else 0
        state.claim = Claim(others, state.plan.version, is_urgent=True, num_scratch_pages=num_pages)
        state.loan = Loan(index, match, self._pool)
        state.extra_fresh = len(history) - num_taken

    def match(self, plan: Plan) -> tuple[int, Match] | None:
        """The index of the history that a request would borrow now, and what for; None where it would not."""
        index = self._borrower(plan)
        if self._pool is None or index is None:
            return None
        return index, self._pool.lookup(plan.prompt.blocks[index].token_ids, min_similarity=self._min_similarity)

    def complete(self, state: RequestState) -> None:
        """Puts a loan into pages and into the request's prompt, once its claim is done; nothing for others."""
        loan = state.loan
        if loan is None:
            return
        plan, scratch = state.plan, state.claim.scratch
        pins = iter(state.claim.pins)
        held = {i: next(pins) for i in plan.cached if i != loan.index}
        unmatched = {}
        if scratch is not None:
            history = plan.prompt.blocks[loan.index]
            self._cache.executor.write_pages(scratch.pages, self._lent(loan))
            held[loan.index] = CachedBlock(b"", history.kind, history.owner, history.token_ids, scratch.pages, 0.0)
            unmatched[loan.index] = loan.match.fresh_offsets
        cached = {i: held[i] for i in sorted(held)}
        prompt = replace(plan.prompt, has_exact_history=not unmatched)
        state.prompt = PinnedPrompt(prompt, cached, self._cache.page_tokens, unmatched)
        if not plan.arm.selection.measures:
            state.row = state.prompt.row(plan.arm.selection.choose(state.prompt.tokens()))

    def _lent(self, loan: Loan) -> KVPages:
        """The pages of a loan, with keys turned to where a history is computed."""
        pages = loan.pool.pages(loan.match, self._cache.page_tokens)
        layers, _, _, *heads = pages.k.shape
        k = np.asarray(pages.k).reshape(layers, -1, *heads)
        k = turned(k.astype(np.float32), loan.pool.start + np.arange(k.shape[1]), self._rope).reshape(pages.k.shape)
        of_cache = self._cache.executor.format
        if of_cache.is_quantised:
            return quantise_pages(k, np.asarray(pages.v), of_cache.numpy_dtype)
        return replace(pages, k=k.astype(pages.k.dtype))

    def _borrower(self, plan: Plan) -> int | None:
        """The block of a history that its arm lets borrow and that is not in cache."""
        if plan.arm.history is History.EXACT:
            return None
        for index, planned in zip(plan.cached, plan.wanted, strict=True):
            if planned.block.kind is BlockKind.HISTORY:
                current = self._cache.directory.current(planned.block.kind, planned.block.owner)
                return None if current is not None and current.key == planned.key else index
        return None


def exact_kv(
    cache: BlockCache, planned: PlannedBlock, rope: Rope
) -> Steps[tuple[Shaped[np.ndarray, "L T K H"], Shaped[np.ndarray, "L T K H"]]]:
    """K (unrotated) and V of a block right after the instruction, computed where the cache does not hold it.

    Of the cache's dtype, or bfloat16 where that is quantised: the rounding is far below that of 8 bits.
    """
    claim = Claim([planned], 0, is_urgent=False)
    yield claim
    try:
        pages = cache.executor.read_pages(claim.pins[0].pages).dequantised()
    finally:
        cache.release(claim)
    layers, _, _, *heads = pages.k.shape
    k, v = (np.asarray(some).reshape(layers, -1, *heads)[:, : len(planned.block)] for some in (pages.k, pages.v))
    dtype = BFLOAT16 if cache.executor.format.is_quantised else k.dtype
    return turned_back(k, planned.block.start + np.arange(k.shape[1]), rope).astype(dtype), v.astype(dtype)

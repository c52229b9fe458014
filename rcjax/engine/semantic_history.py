"""Semantic histories: KV from other users' histories, for those whose own is not in cache.

Zhao et al., "RcLLM", arXiv 2605.07443, III-B; `rcjax.cache.semantic` has the pool, docs/semantic-history.md the cost.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from jaxtyping import Shaped

from rcjax.cache import CachedBlock
from rcjax.cache.semantic import InstanceFields, Match, SemanticPool, TokenEmbedding
from rcjax.engine.block_cache import BlockCache
from rcjax.engine.library import Library
from rcjax.prompt import Block

_log = logging.getLogger(__name__)


class SemanticHistories:
    """A pool of KV that some of the library's users lend, and scratch pages to put it in.

    What is lent is never found by the key of the history that borrows it. The pool holds traces of the users whose
    histories it was built from, deleted ones too, until it is built anew.
    """

    def __init__(
        self,
        cache: BlockCache,
        library: Library,
        decode: Callable[[list[int]], str],
        *,
        max_history_tokens: int,
        num_sampled_users: int,
        max_prototypes: int,
        min_similarity: float,
    ):
        self._cache = cache
        self._library = library
        self._fields = InstanceFields(decode)
        self._max_history_tokens = max_history_tokens
        self._num_sampled_users = num_sampled_users
        self._max_prototypes = max_prototypes
        self._min_similarity = min_similarity
        self._pool: SemanticPool | None = None
        self._sampled: frozenset[str] = frozenset()

    def build(self, seed: int) -> int:
        """Builds the pool from the exact KV of users drawn from the library; returns the number of its prototypes.

        It replaces a former pool. Histories that miss are computed, one at a time. Without users there is no pool.
        """
        self._pool, self._sampled = None, frozenset()
        known = self._library.user_ids
        if not known:
            return 0
        drawn = np.random.default_rng(seed).permutation(len(known))[: self._num_sampled_users]
        users = [known[i] for i in drawn]
        blocks = {block.token_ids.tobytes(): block for block in map(self._library.history, users)}
        start = next(iter(blocks.values())).start
        table = np.asarray(self._cache.slice.params["embed"], np.float32)
        self._pool = SemanticPool.build(
            [block.token_ids for block in blocks.values()],
            lambda ids: exact_kv(self._cache, blocks[ids.tobytes()]),
            TokenEmbedding.of(table, max_position=start + self._max_history_tokens),
            self._fields,
            instruction_key=self._cache.instruction_key,
            start=start,
            max_prototypes=self._max_prototypes,
            seed=seed,
        )
        self._sampled = frozenset(users)
        return self._pool.num_prototypes

    def note_deleted(self, user_id: str) -> None:
        """Warns where the pool still holds traces of a user who was deleted."""
        if user_id in self._sampled:
            _log.warning("the semantic pool holds traces of a deleted user; call build_semantic_pool to be rid of them")

    def match(self, history: Block) -> Match | None:
        """What the pool has for a history; None where its exact KV is in cache, or no pool has been built."""
        if self._pool is None or self._cache.current(history) is not None:
            return None
        return self._pool.lookup(history.token_ids, min_similarity=self._min_similarity)

    @contextmanager
    def pages(self, history: Block, match: Match) -> Iterator[CachedBlock]:
        """The history in scratch pages that hold what was lent, for the length of a `with`.

        Raises `ResourceExhaustedError` where the cache has no pages for it.
        """
        if self._pool is None:
            raise ValueError("a match needs the pool that it was found in, and there is none")
        directory = self._cache.directory
        scratch = directory.reserve_scratch(directory.pool.pages_for(len(history)))
        try:
            self._cache.slice.write_pages(scratch.pages, *self._pool.pages(match, directory.pool.page_tokens))
            yield CachedBlock(b"", history.kind, history.owner, history.token_ids, scratch.pages, scratch.cost)
        finally:
            directory.release(scratch)


def exact_kv(cache: BlockCache, block: Block) -> tuple[Shaped[np.ndarray, "L T K H"], Shaped[np.ndarray, "L T K H"]]:
    """K (unrotated) and V of a block right after the instruction, computed where the cache does not hold it."""
    with cache.resident([block]) as ((cached,), _):
        k, v = cache.slice.read_pages(cached.pages)
    layers, _, _, *heads = k.shape
    flat = (some.reshape(layers, -1, *heads)[:, : len(block)] for some in (k, v))
    return next(flat), next(flat)

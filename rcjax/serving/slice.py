"""One mesh slice's executor: the weights, the KV pages, and the programs compiled for them."""

from collections.abc import Iterable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from rcjax.model.config import ModelConfig
from rcjax.model.decoder import Batch, Params, extend, unembed
from rcjax.model.kv import FreshKV, empty_pages, write_pages


class Slice:
    """Runs forward passes over its own pages. One thread calls it; a call blocks until its result is there.

    `vocab_ids` are the vocabulary entries that ranking reads out.
    """

    def __init__(
        self,
        params: Params,
        config: ModelConfig,
        *,
        num_pages: int,
        page_tokens: int,
        dtype: DTypeLike,
        vocab_ids: np.ndarray,
    ):
        self.config = config
        self.params = params
        self.pages = empty_pages(config, num_pages, page_tokens, dtype)
        self._vocab_ids = jnp.asarray(vocab_ids)
        self._rank = jax.jit(partial(_rank, config))
        self._decode = jax.jit(partial(_decode, config))
        self._fresh_kv = jax.jit(partial(_fresh_kv, config))
        # Two programs, not one: while a pass reads the pool, the compiler would copy it to write in place.
        self._write = jax.jit(write_pages, donate_argnames="pages")

    def rank(self, batch: Batch) -> np.ndarray:
        """Logits [B, R, W] of the ranking vocabulary at the tokens to read."""
        return np.asarray(self._rank(self.params, batch, self.pages, self._vocab_ids))

    def build(self, batch: Batch, source: np.ndarray, destination: np.ndarray) -> None:
        """Computes the fresh tokens' KV and writes it into pages, as `write_pages` says."""
        fresh = self._fresh_kv(self.params, batch, self.pages)
        self._store(fresh, source, destination)

    def decode(self, batch: Batch, source: np.ndarray, destination: np.ndarray) -> np.ndarray:
        """Like `build`, and returns the logits [B, R, V] of the whole vocabulary at the tokens to read."""
        logits, fresh = self._decode(self.params, batch, self.pages)
        self._store(fresh, source, destination)
        return np.asarray(logits)

    def read_pages(self, pages: Iterable[int]) -> tuple[np.ndarray, np.ndarray]:
        """K and V of some pages, each [L, W, C, K, H]."""
        index = np.fromiter(pages, np.int32)
        return np.asarray(self.pages.k[:, index]), np.asarray(self.pages.v[:, index])

    def _store(self, fresh: FreshKV, source: np.ndarray, destination: np.ndarray) -> None:
        self.pages = self._write(self.pages, fresh, source, destination)
        jax.block_until_ready(self.pages)


def _rank(config: ModelConfig, params: Params, batch: Batch, pages, vocab_ids):  # type: ignore[no-untyped-def]
    hidden, _ = extend(params, config, batch, pages)
    return unembed(params, hidden, vocab_ids)


def _decode(config: ModelConfig, params: Params, batch: Batch, pages):  # type: ignore[no-untyped-def]
    hidden, fresh = extend(params, config, batch, pages)
    return unembed(params, hidden), fresh


def _fresh_kv(config: ModelConfig, params: Params, batch: Batch, pages):  # type: ignore[no-untyped-def]
    return extend(params, config, batch, pages)[1]

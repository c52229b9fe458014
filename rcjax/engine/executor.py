"""One mesh slice's executor: the weights, the KV pages, and the programs compiled for them."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float, Int32

from rcjax.model.config import ModelConfig
from rcjax.model.decoder import Batch, Params, extend, unembed
from rcjax.model.kv import FreshKV, KVPages, empty_pages, write_pages
from rcjax.model.probe import probe
from rcjax.model.selection import Measure

TRANSFER_PAGES = 16  # moved between host and device at once: 32 MiB of an 8B model in bfloat16


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
        self._probe = jax.jit(partial(_probe, config), static_argnames="measure")
        self._decode = jax.jit(partial(_decode, config))
        self._fresh_kv = jax.jit(partial(_fresh_kv, config))
        # Two programs, not one: while a pass reads the pool, the compiler would copy it to write in place.
        self._write = jax.jit(write_pages, donate_argnames="pages")
        self._gather = jax.jit(_gather)
        self._scatter = jax.jit(_scatter, donate_argnames="pages")
        self.write_pages((), *self.read_pages(()))  # compiles both: a snapshot may come while requests are served

    def rank(self, batch: Batch) -> np.ndarray:
        """Logits [B, R, W] of the ranking vocabulary at the tokens to read."""
        return np.asarray(self._rank(self.params, batch, self.pages, self._vocab_ids))

    def probe(self, batch: Batch, slots: np.ndarray, asks: np.ndarray, measure: Measure) -> np.ndarray:
        """What `measure` says of each fresh or cached token, as `rcjax.model.probe.probe` does."""
        return np.asarray(self._probe(self.params, batch, self.pages, slots, asks, measure=measure))

    def build(self, batch: Batch, source: np.ndarray, destination: np.ndarray) -> None:
        """Computes the fresh tokens' KV and writes it into pages, as `write_pages` says."""
        fresh = self._fresh_kv(self.params, batch, self.pages)
        self._store(fresh, source, destination)

    def decode(self, batch: Batch, source: np.ndarray, destination: np.ndarray) -> np.ndarray:
        """Like `build`, and returns the logits [B, R, V] of the whole vocabulary at the tokens to read."""
        logits, fresh = self._decode(self.params, batch, self.pages)
        self._store(fresh, source, destination)
        return np.asarray(logits)

    def read_pages(self, pages: Iterable[int]) -> tuple[Float[np.ndarray, "L W C K H"], Float[np.ndarray, "L W C K H"]]:
        """K and V of W pages, on the host. One program serves any W, 0 included."""
        index = np.fromiter(pages, np.int32)
        layers, _, *rest = self.pages.k.shape
        k, v = (np.empty((layers, len(index), *rest), self.pages.k.dtype) for _ in range(2))
        for part, padded in _transfers(index):
            read = self._gather(self.pages, padded)
            num = len(index[part])
            k[:, part], v[:, part] = np.asarray(read.k)[:, :num], np.asarray(read.v)[:, :num]
        return k, v

    def write_pages(
        self, pages: Sequence[int], k: Float[np.ndarray, "L W C K H"], v: Float[np.ndarray, "L W C K H"]
    ) -> None:
        """Overwrites W pages with K and V from the host. One program serves any W, 0 included."""
        index = np.asarray(pages, np.int32)
        layers, _, *rest = k.shape
        for part, padded in _transfers(index):
            # Padding goes to the null page, and is zero as that is.
            some_k, some_v = (np.zeros((layers, TRANSFER_PAGES, *rest), k.dtype) for _ in range(2))
            num = len(index[part])
            some_k[:, :num], some_v[:, :num] = k[:, part], v[:, part]
            self.pages = self._scatter(self.pages, padded, some_k, some_v)
        jax.block_until_ready(self.pages)

    def _store(self, fresh: FreshKV, source: np.ndarray, destination: np.ndarray) -> None:
        self.pages = self._write(self.pages, fresh, source, destination)
        jax.block_until_ready(self.pages)


def _rank(config: ModelConfig, params: Params, batch: Batch, pages, vocab_ids):  # type: ignore[no-untyped-def]
    hidden, _ = extend(params, config, batch, pages)
    return unembed(params, hidden, vocab_ids)


def _probe(config: ModelConfig, params: Params, batch: Batch, pages, slots, asks, measure):  # type: ignore[no-untyped-def]
    return probe(params, config, batch, pages, slots, asks, measure)


def _decode(config: ModelConfig, params: Params, batch: Batch, pages):  # type: ignore[no-untyped-def]
    hidden, fresh = extend(params, config, batch, pages)
    return unembed(params, hidden), fresh


def _fresh_kv(config: ModelConfig, params: Params, batch: Batch, pages):  # type: ignore[no-untyped-def]
    return extend(params, config, batch, pages)[1]


def _transfers(index: Int32[np.ndarray, "W"]) -> Iterator[tuple[slice, Int32[np.ndarray, "T"]]]:
    """Which of the pages to move next, and their numbers padded with the null page; at least once."""
    for start in range(0, max(len(index), 1), TRANSFER_PAGES):
        part = slice(start, min(start + TRANSFER_PAGES, len(index)))
        yield part, np.pad(index[part], (0, TRANSFER_PAGES - len(index[part])))


def _gather(pages: KVPages, index: jax.Array) -> KVPages:
    return KVPages(pages.k[:, index], pages.v[:, index])


def _scatter(pages: KVPages, index: jax.Array, k: jax.Array, v: jax.Array) -> KVPages:
    return KVPages(pages.k.at[:, index].set(k), pages.v.at[:, index].set(v))

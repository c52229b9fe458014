"""Programs: the compiled passes of a model, apart from the pages they run on."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rcjax.engine.cost import Program
from rcjax.kernels.kv import KVFormat, KVPages
from rcjax.kernels.selective_attention import Attention
from rcjax.model.config import ModelConfig
from rcjax.model.decoder import Batch, Params, extend, unembed
from rcjax.model.kv import FreshKV, empty_pages, write_pages
from rcjax.model.probe import KnownTokens, probe

Compiled = Callable[..., Any]


class Programs:
    """What one slice can run. Everything is compiled at start-up: a pass of another shape is a KeyError, never a wait.

    Executors whose weights and pages have the shapes of those given here may share it. `num_pages` is the pool's.
    """

    def __init__(
        self,
        params: Params,
        config: ModelConfig,
        format: KVFormat,
        *,
        num_pages: int,
        vocab_ids: np.ndarray,
        attention: Attention,
    ):
        self.config = config
        self.format = format
        self.num_pages = num_pages
        self.vocab_ids = vocab_ids
        self.attention = attention
        self._params = jax.tree.map(_struct, params)
        self._pages = jax.eval_shape(partial(empty_pages, format, num_pages))
        self._passes: dict[Program, Compiled] = {}
        self._writes: dict[tuple[int, int], Compiled] = {}  # by fresh tokens and pages written
        self._gather: dict[int, Compiled] = {}
        self._scatter: dict[int, Compiled] = {}

    def compile_rank(self, program: Program, batch: Batch) -> None:
        """Logits [B, R, W] of the ranking vocabulary at the tokens to read."""
        self._compile(program, partial(_rank, self.config, self.attention, self.vocab_ids), batch)

    def compile_probe(self, program: Program, batch: Batch, known: KnownTokens, asks: np.ndarray) -> None:
        if program.measure is None:
            raise ValueError(f"{program} does not say what it measures")
        run = partial(_probe, self.config, self.attention, program.measure)
        self._compile(program, run, batch, known, asks)

    def compile_build(self, program: Program, batch: Batch, source: np.ndarray) -> None:
        """The fresh tokens' KV, and apart from it the program that writes that into pages."""
        fresh = self._compile(program, partial(_fresh_kv, self.config, self.attention), batch)
        self._compile_write(fresh, source)

    def compile_decode(self, program: Program, batch: Batch, source: np.ndarray) -> None:
        """Logits [B, R, V] of the whole vocabulary and the fresh tokens' KV."""
        _, fresh = self._compile(program, partial(_decode, self.config, self.attention), batch)
        self._compile_write(fresh, source)

    def compile_transfer(self, num_pages: int) -> None:
        """Reading and overwriting `num_pages` pages."""
        index = jax.ShapeDtypeStruct((num_pages,), np.int32)
        some = self.format.host_empty(num_pages)
        self._gather[num_pages] = jax.jit(_gather).lower(self._pages, index).compile()
        scatter = jax.jit(_scatter, donate_argnames="pages")
        self._scatter[num_pages] = scatter.lower(self._pages, index, some).compile()

    def has(self, program: Program) -> bool:
        return program in self._passes

    def run(self, program: Program, params: Params, pages: KVPages, *arrays: Any) -> Any:
        """Starts a pass and returns its result's arrays, which may not be ready; KeyError if it was not compiled."""
        return self._passes[program](params, pages, *arrays)

    def write(
        self, pages: KVPages, fresh: FreshKV, source: np.ndarray, destination: np.ndarray
    ) -> tuple[KVPages, jax.Array]:
        """Starts writing fresh KV; donates `pages`. The second result is ready when the writing is done."""
        done: tuple[KVPages, jax.Array] = self._writes[_write_key(fresh.k.shape, source)](
            pages, fresh, source, destination
        )
        return done

    def gather(self, pages: KVPages, index: np.ndarray) -> KVPages:
        found: KVPages = self._gather[len(index)](pages, index)
        return found

    def scatter(self, pages: KVPages, index: np.ndarray, some: KVPages) -> KVPages:
        """Overwrites pages; donates `pages`."""
        written: KVPages = self._scatter[len(index)](pages, index, some)
        return written

    def _compile(self, program: Program, run: Callable[..., Any], *arrays: Any) -> Any:
        """Compiles a pass; returns the shapes and dtypes of its result."""
        lowered = jax.jit(run).lower(self._params, self._pages, *arrays)
        self._passes[program] = lowered.compile()
        return lowered.out_info

    def _compile_write(self, fresh: FreshKV, source: np.ndarray) -> None:
        key = _write_key(fresh.k.shape, source)
        if key in self._writes:
            return
        # Two programs, not one: while a pass reads the pool, the compiler would copy it to write in place.
        write = jax.jit(_write, donate_argnames="pages")
        destination = np.zeros(source.shape[:1], np.int32)
        self._writes[key] = write.lower(self._pages, jax.tree.map(_struct, fresh), source, destination).compile()


def _struct(array: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


def _write_key(fresh_shape: tuple[int, ...], source: np.ndarray) -> tuple[int, int]:
    return fresh_shape[1] * fresh_shape[2], source.shape[0]


def _rank(config, attention, vocab_ids, params, pages, batch):  # type: ignore[no-untyped-def]
    hidden, _ = extend(params, config, batch, pages, attention)
    return unembed(params, hidden, jnp.asarray(vocab_ids))


def _probe(config, attention, measure, params, pages, batch, known, asks):  # type: ignore[no-untyped-def]
    return probe(params, config, batch, pages, known, asks, measure, attention)


def _decode(config, attention, params, pages, batch):  # type: ignore[no-untyped-def]
    hidden, fresh = extend(params, config, batch, pages, attention)
    return unembed(params, hidden), fresh


def _fresh_kv(config, attention, params, pages, batch):  # type: ignore[no-untyped-def]
    return extend(params, config, batch, pages, attention)[1]


def _write(pages, fresh, source, destination):  # type: ignore[no-untyped-def]
    return write_pages(pages, fresh, source, destination), destination.sum()


def _gather(pages, index):  # type: ignore[no-untyped-def]
    return jax.tree.map(lambda x: x[:, index], pages)


def _scatter(pages, index, some):  # type: ignore[no-untyped-def]
    return jax.tree.map(lambda x, new: x.at[:, index].set(new), pages, some)

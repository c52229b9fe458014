"""Programs: the compiled passes of a model, apart from the pages they run on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rcjax.engine.cost import Program
from rcjax.kernels.kv import KVFormat, KVPages
from rcjax.kernels.selective_attention import Attention
from rcjax.kernels.selective_attention.sharded import sharded_heads
from rcjax.model.config import ModelConfig
from rcjax.model.decoder import Batch, Params, extend, unembed
from rcjax.model.kv import FreshKV, empty_pages, write_pages
from rcjax.model.probe import KnownTokens, probe
from rcjax.model.sharding import AnyMesh, fresh_sharding, page_shardings, param_shardings

Compiled = Callable[..., Any]
PerSlice = tuple[Compiled, ...]


@dataclass(frozen=True, slots=True)
class Split:
    """How the arrays of a pass are split over the devices of a slice."""

    params: Params
    pages: KVPages
    fresh: NamedSharding
    whole: NamedSharding  # of all else: the same on every device

    @classmethod
    def over(cls, mesh: AnyMesh, config: ModelConfig, format: KVFormat, num_pages: int) -> "Split":
        return cls(
            param_shardings(config, mesh),
            page_shardings(format, num_pages, mesh),
            fresh_sharding(config, mesh),
            NamedSharding(mesh, PartitionSpec()),
        )


class Programs:
    """What slices can run. Everything is compiled at start-up: a pass of another shape is a KeyError, never a wait.

    Executors whose weights and pages have the shapes of those given here may share it. `num_pages` is that of a slice's
    pool. `meshes` are the devices of each slice, of one axis, "tensor", over which heads are split; without any there
    is one slice, on the default device. A program is traced once, and compiled for each slice.
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
        meshes: Sequence[Mesh] = (),
    ):
        self.config = config
        self.format = format
        self.num_pages = num_pages
        self.vocab_ids = vocab_ids
        self.meshes = tuple(meshes)
        self.attention = attention
        self._split: Split | None = None
        if meshes:
            any_slice = meshes[0].abstract_mesh  # what is traced does not know whose devices it will run on
            self._split = Split.over(any_slice, config, format, num_pages)
            if any_slice.size > 1:
                self.attention = sharded_heads(attention, any_slice)
        self._params = self._structs(params, lambda split: split.params)
        self._pages = self._structs(format.abstract(num_pages), lambda split: split.pages)
        self._passes: dict[Program, PerSlice] = {}
        self._writes: dict[tuple[int, int], PerSlice] = {}  # by fresh tokens and pages written
        self._gather: dict[int, PerSlice] = {}
        self._scatter: dict[int, PerSlice] = {}

    # ---- start-up

    def empty_pages(self, index: int = 0) -> KVPages:
        """A pool of zeros on the devices of slice `index`."""
        if not self.meshes:
            return empty_pages(self.format, self.num_pages)
        placed = page_shardings(self.format, self.num_pages, self.meshes[index])
        pages: KVPages = jax.tree.map(lambda x, on: jnp.zeros(x.shape, x.dtype, device=on), self._pages, placed)
        return pages

    def compile_rank(self, program: Program, batch: Batch) -> None:
        """Logits [B, R, W] of the ranking vocabulary at the tokens to read."""
        run = partial(_rank, self.config, self.attention, self.vocab_ids)
        self._compile_pass(program, run, batch, out=lambda split: split.whole)

    def compile_probe(self, program: Program, batch: Batch, known: KnownTokens, asks: np.ndarray) -> None:
        if program.measure is None:
            raise ValueError(f"{program} does not say what it measures")
        run = partial(_probe, self.config, self.attention, program.measure)
        self._compile_pass(program, run, batch, known, asks, out=lambda split: split.whole)

    def compile_build(self, program: Program, batch: Batch, source: np.ndarray) -> None:
        """The fresh tokens' KV, and apart from it the program that writes that into pages."""
        run = partial(_fresh_kv, self.config, self.attention)
        fresh = self._compile_pass(program, run, batch, out=lambda split: split.fresh)
        self._compile_write(fresh, source)

    def compile_decode(self, program: Program, batch: Batch, source: np.ndarray) -> None:
        """Logits [B, R, V] of the whole vocabulary and the fresh tokens' KV."""
        run = partial(_decode, self.config, self.attention)
        _, fresh = self._compile_pass(program, run, batch, out=lambda split: (split.whole, split.fresh))
        self._compile_write(fresh, source)

    def compile_transfer(self, num_pages: int) -> None:
        """Reading and overwriting `num_pages` pages."""
        index = jax.ShapeDtypeStruct((num_pages,), np.int32)
        some = self._structs(self.format.abstract(num_pages), lambda split: split.pages)
        self._gather[num_pages], _ = self._compile(_gather, self._pages, index, out=lambda split: split.pages)
        self._scatter[num_pages], _ = self._compile(
            _scatter, self._pages, index, some, out=lambda split: split.pages, donate_argnames="pages"
        )

    # ---- passes

    def has(self, program: Program) -> bool:
        return program in self._passes

    def run(self, program: Program, params: Params, pages: KVPages, *arrays: Any, index: int = 0) -> Any:
        """Starts a pass of slice `index` and returns its result's arrays, which may not be ready.

        KeyError if it was not compiled.
        """
        return self._passes[program][index](params, pages, *arrays)

    def write(
        self, pages: KVPages, fresh: FreshKV, source: np.ndarray, destination: np.ndarray, *, index: int = 0
    ) -> tuple[KVPages, jax.Array]:
        """Starts writing fresh KV; donates `pages`. The second result is ready when the writing is done."""
        done: tuple[KVPages, jax.Array] = self._writes[_write_key(fresh.k.shape, source)][index](
            pages, fresh, source, destination
        )
        return done

    def gather(self, pages: KVPages, numbers: np.ndarray, *, index: int = 0) -> KVPages:
        """The pages of these numbers, on the slice's devices."""
        found: KVPages = self._gather[len(numbers)][index](pages, numbers)
        return found

    def scatter(self, pages: KVPages, numbers: np.ndarray, some: KVPages, *, index: int = 0) -> KVPages:
        """Overwrites pages; donates `pages`."""
        written: KVPages = self._scatter[len(numbers)][index](pages, numbers, some)
        return written

    # ---- compilation

    def _structs(self, arrays: Any, placed: Callable[[Split], Any]) -> Any:
        """Their shapes and dtypes and, where there are meshes, how they are split."""
        if self._split is None:
            return jax.tree.map(_struct, arrays)
        return jax.tree.map(_struct, arrays, placed(self._split))

    def _compile_pass(self, program: Program, run: Compiled, *arrays: Any, out: Callable[[Split], Any]) -> Any:
        """Compiles a pass; returns the shapes and dtypes of its result."""
        self._passes[program], result = self._compile(run, self._params, self._pages, *arrays, out=out)
        return result

    def _compile_write(self, fresh: FreshKV, source: np.ndarray) -> None:
        key = _write_key(fresh.k.shape, source)
        if key in self._writes:
            return
        fresh = self._structs(fresh, lambda split: jax.tree.map(lambda _: split.fresh, fresh))
        # Two programs, not one: while a pass reads the pool, the compiler would copy it to write in place.
        destination = np.zeros(source.shape[:1], np.int32)
        self._writes[key], _ = self._compile(
            _write,
            self._pages,
            fresh,
            source,
            destination,
            out=lambda split: (split.pages, split.whole),
            donate_argnames="pages",
        )

    def _compile(
        self, run: Compiled, *arrays: Any, out: Callable[[Split], Any], **options: Any
    ) -> tuple[PerSlice, Any]:
        """Traces once and compiles for each slice; also the shapes and dtypes of the result."""
        if self._split is None:
            lowered = jax.jit(run, **options).lower(*arrays)
            return (lowered.compile(),), lowered.out_info
        traced = jax.jit(run, out_shardings=out(self._split), **options).trace(*arrays)
        lowered = traced.lower(lowering_platforms=(jax.export.default_export_platform(),))
        # One after the other: a module that is being compiled must not be read by another thread. Who wants more at
        # once compiles several programs. On GPUs the second slice's is found in the compilation cache.
        compiled = [lowered.compile(device_assignment=tuple(mesh.devices.flat)) for mesh in self.meshes]
        return tuple(compiled), lowered.out_info


def _struct(array: Any, placed: NamedSharding | None = None) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=placed)


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

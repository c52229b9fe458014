"""The executor of one slice: weights and KV pages, and the passes that run on them."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import jax
import numpy as np
from jaxtyping import Int32

from rcjax.cache.pages import NOWHERE as NOWHERE
from rcjax.engine.cost import CostModel, Program
from rcjax.engine.programs import Programs
from rcjax.engine.shape import Shape
from rcjax.kernels.kv import KVFormat, KVPages
from rcjax.model.decoder import Batch, Params
from rcjax.model.probe import KnownTokens
from rcjax.model.selection import Measure

TRANSFER_PAGES = 16  # moved between host and device at once: 32 MiB of an 8B model in bfloat16
ALIGNMENT_BYTES = 64  # of arrays that XLA's CPU client takes without a copy

T = TypeVar("T")


class ExecutorLostError(RuntimeError):
    """The device pages are gone: a write that was to replace them failed, so no block of this slice can be read."""


class Pending(Generic[T]):
    """A pass that was started; its result is on the device until `result` fetches it.

    Of its rows and tokens `num_rows` and `num_tokens` are no padding.
    """

    def __init__(self, program: Program, arrays: Any, fetch: Callable[[Any], T], batch: Batch):
        self.program = program
        used = np.asarray(batch.tokens.pos) >= 0
        self.num_tokens = int(np.count_nonzero(used))
        self.num_rows = int(np.count_nonzero(used.any(axis=1)))
        self._arrays = arrays
        self._fetch = fetch
        self.start_s = time.monotonic()

    def is_ready(self) -> bool:
        return all(array.is_ready() for array in jax.tree.leaves(self._arrays))

    def result(self) -> T:
        """Blocks until the pass is done; raises what it failed with. Any thread may call it."""
        return self._fetch(self._arrays)


class Executor:
    """Starts passes over its own pages. Each call returns at once; one thread makes them, any thread may wait.

    Passes run in the order in which they were started, so one that is started after a write reads what was written.
    `params` are on the devices of slice `index`.
    """

    def __init__(self, programs: Programs, params: Params, cost: CostModel, index: int = 0):
        self.programs = programs
        self.cost = cost
        self.index = index
        self._params = params
        self.pages = programs.empty_pages(index)
        self._placed = jax.tree.map(lambda array: array.sharding, self.pages)

    @property
    def format(self) -> KVFormat:
        return self.programs.format

    @property
    def pool_bytes(self) -> int:
        return self.pages.num_bytes

    @property
    def embedding(self) -> np.ndarray:
        """The token embeddings [V, D] in float32, on the host."""
        return np.asarray(self._params["embed"], np.float32)

    def release(self) -> None:
        """Lets go of the weights and pages, whose memory is free once nobody else has them; no pass can follow."""
        self._params, self.pages = {}, self.format.host_empty(0)

    def rank(self, batch: Batch, shape: Shape) -> Pending[np.ndarray]:
        """Logits [B, R, W] of the ranking vocabulary at the tokens to read."""
        program = Program("rank", shape)
        return Pending(program, self._start(program, batch), np.asarray, batch)

    def probe(
        self, batch: Batch, known: KnownTokens, asks: np.ndarray, shape: Shape, measure: Measure
    ) -> Pending[np.ndarray]:
        """What `measure` says of each fresh or cached token, as `rcjax.model.probe.probe` does."""
        program = Program("probe", shape, measure)
        return Pending(program, self._start(program, batch, known, asks), np.asarray, batch)

    def build(self, batch: Batch, source: np.ndarray, destination: np.ndarray, shape: Shape) -> Pending[None]:
        """Computes the fresh tokens' KV and writes it into pages, as `write_pages` says."""
        program = Program("build", shape)
        fresh = self._start(program, batch)
        return Pending(program, self._write(fresh, source, destination), _wait, batch)

    def decode(self, batch: Batch, source: np.ndarray, destination: np.ndarray, shape: Shape) -> Pending[np.ndarray]:
        """Like `build`, and yields the logits [B, R, V] of the whole vocabulary at the tokens to read."""
        program = Program("decode", shape)
        logits, fresh = self._start(program, batch)
        done = self._write(fresh, source, destination)
        return Pending(program, (logits, done), lambda arrays: np.asarray(arrays[0]), batch)

    def read_pages(self, pages: Sequence[int]) -> KVPages:
        """Pages as they are now, on the host; blocks. One program serves any number of them, 0 included."""
        start_s = time.perf_counter()
        index = np.asarray(pages, np.int32)
        found = self.programs.format.host_empty(len(index))
        for part, padded in _transfers(index):
            read = self.programs.gather(self.pages, padded, index=self.index)
            for to, some in zip(jax.tree.leaves(found), jax.tree.leaves(read), strict=True):
                to[:, part] = np.asarray(some)[:, : part.stop - part.start]
        self.cost.observe_transfer(len(index), time.perf_counter() - start_s)
        return found

    def write_pages(self, pages: Sequence[int], values: KVPages) -> None:
        """Overwrites pages with KV from the host, which must be of the pool's format; blocks."""
        start_s = time.perf_counter()
        self.programs.format.check(values)
        index = np.asarray(pages, np.int32)
        for part, padded in _transfers(index):
            # Padding goes to the null page, and is zero as that is.
            some = self.programs.format.host_empty(TRANSFER_PAGES)
            for to, new in zip(jax.tree.leaves(some), jax.tree.leaves(values), strict=True):
                to[:, : part.stop - part.start] = new[:, part]
            self.pages = self.programs.scatter(self.pages, padded, some, index=self.index)
        jax.block_until_ready(self.pages)
        self.cost.observe_transfer(len(index), time.perf_counter() - start_s)

    def start_read(self, pages: Sequence[int]) -> tuple[KVPages, ...]:
        """Copies of pages as they are now, on this slice's devices, in parts of `TRANSFER_PAGES`, the last one padded.

        Returns at once, as a pass does: what is written afterwards does not change them.
        """
        index = np.asarray(pages, np.int32)
        return tuple(self.programs.gather(self.pages, padded, index=self.index) for _, padded in _transfers(index))

    def in_parts(self, blocks: Sequence[KVPages]) -> tuple[KVPages, ...]:
        """Pages on the host, one block after another, as parts; raises ValueError where they are of another format."""
        for pages in blocks:
            self.format.check(pages)
        parts = self.host_parts(sum(pages.num_pages for pages in blocks))
        at = 0
        for pages in blocks:
            for first in range(pages.num_pages):
                part, slot = divmod(at + first, TRANSFER_PAGES)
                for to, new in zip(jax.tree.leaves(parts[part]), jax.tree.leaves(pages), strict=True):
                    to[:, slot] = new[:, first]
            at += pages.num_pages
        return parts

    def host_parts(self, num_pages: int) -> tuple[KVPages, ...]:
        """Parts on the host with room for so many pages, to be filled; what is not filled is anything.

        They lie so that a CPU device takes them as they are: once they were given to `bring`, they must not change.
        """
        empty = self.format.abstract(TRANSFER_PAGES)
        return tuple(jax.tree.map(_aligned, empty) for _ in range(-(-num_pages // TRANSFER_PAGES)))

    def num_pages_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.format.page_tokens)

    def bring(self, parts: Sequence[KVPages]) -> tuple[KVPages, ...]:
        """Parts as `start_read` gives them, of another slice or on the host, on this slice's devices.

        Blocks until they are there; any thread may call it.
        """
        here = tuple(jax.device_put(part, self._placed) for part in parts)
        jax.block_until_ready(here)
        return here

    def start_write(self, pages: Sequence[int], parts: Sequence[KVPages]) -> None:
        """Overwrites pages with parts that are on this slice's devices; `NOWHERE` is the page of what is not wanted.

        Returns at once; passes that are started afterwards read what was written.
        """
        index = np.full(len(parts) * TRANSFER_PAGES, self.programs.num_pages, np.int32)  # out of bounds: not written
        index[: len(pages)] = [self.programs.num_pages if page == NOWHERE else page for page in pages]
        for at, part in enumerate(parts):
            some = index[at * TRANSFER_PAGES : (at + 1) * TRANSFER_PAGES]
            self.pages = self.programs.scatter(self.pages, some, part, index=self.index)

    def check(self) -> None:
        """Raises `ExecutorLostError` where a failed write took the pages along; blocks until they are ready.

        A write that fails where it starts leaves deleted pages; one that fails later, pages that are never ready.
        """
        try:
            jax.block_until_ready(self.pages)
        except RuntimeError as error:
            raise ExecutorLostError(
                "the KV pages were lost in a write that failed; the process has to start anew"
            ) from error

    def _start(self, program: Program, *arrays: Any) -> Any:
        return self.programs.run(program, self._params, self.pages, *arrays, index=self.index)

    def _write(self, fresh: Any, source: np.ndarray, destination: np.ndarray) -> jax.Array:
        self.pages, done = self.programs.write(self.pages, fresh, source, destination, index=self.index)
        return done


def _wait(array: jax.Array) -> None:
    array.block_until_ready()


def _aligned(like: jax.ShapeDtypeStruct) -> np.ndarray:
    """An array that is not initialised, at an address from which XLA's CPU client need not copy."""
    num_bytes = like.size * like.dtype.itemsize
    room = np.empty(num_bytes + ALIGNMENT_BYTES, np.uint8)
    start = -room.ctypes.data % ALIGNMENT_BYTES
    return room[start : start + num_bytes].view(like.dtype).reshape(like.shape)


def _transfers(index: Int32[np.ndarray, "W"]) -> Iterator[tuple[slice, Int32[np.ndarray, "T"]]]:
    """Which of the pages to move next, and their numbers padded with the null page."""
    for start in range(0, len(index), TRANSFER_PAGES):
        part = slice(start, min(start + TRANSFER_PAGES, len(index)))
        yield part, np.pad(index[part], (0, TRANSFER_PAGES - (part.stop - part.start)))

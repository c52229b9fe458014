"""What a pass has to compute and to read at least, and how fast the machine does either (Williams et al., 2009)."""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rcjax.engine.cost import layer_flops
from rcjax.kernels.kv import KVFormat
from rcjax.kernels.selective_attention.layout import joined_pages
from rcjax.kernels.selective_attention.visibility import all_keys, visible
from rcjax.model.decoder import Batch
from rcjax.model.spec import Model

READ_BYTES = 2**28  # more than any cache holds
MATMUL_SIZE = 2048
REPEATS = 5


@dataclass(frozen=True, slots=True)
class Peaks:
    """The best rates that this machine was seen to reach."""

    bytes_per_s: float
    float32: float  # FLOP/s of a matmul
    bfloat16: float

    @classmethod
    def measured(cls) -> "Peaks":
        return cls(max(_device_read(), _host_read()), matmul_flops_per_s(jnp.float32), matmul_flops_per_s(jnp.bfloat16))

    def best(self, other: "Peaks") -> "Peaks":
        """What either reached: others who use the machine only ever make a measurement too low."""
        names = [field.name for field in fields(self)]
        return Peaks(**{name: max(getattr(self, name), getattr(other, name)) for name in names})


@dataclass(frozen=True, slots=True)
class Work:
    """What some part of a pass needs: operations, and bytes that come from memory once."""

    flops: float
    num_bytes: float

    def limit_ms(self, peaks: Peaks, dtype: str) -> float:
        return max(self._compute_s(peaks, dtype), self._read_s(peaks)) * 1e3

    def limited_by(self, peaks: Peaks, dtype: str) -> str:
        return "FLOPs" if self._compute_s(peaks, dtype) > self._read_s(peaks) else "bytes"

    def _compute_s(self, peaks: Peaks, dtype: str) -> float:
        return self.flops / float(getattr(peaks, dtype))

    def _read_s(self, peaks: Peaks) -> float:
        return self.num_bytes / peaks.bytes_per_s


def linear_work(batch: Batch, model: Model, num_columns: int) -> Work:
    """Of everything but attention; `num_columns` are the vocabulary entries that are read out.

    Padding does not count, nor what lies between two products: norms, activations, the read-out's few operations.
    """
    num_fresh = int((batch.tokens.pos >= 0).sum())
    params, config = model.params, model.config
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves((params["layers"], params["final_norm"])))
    row_bytes = config.d_model * params["embed"].dtype.itemsize
    flops = config.num_layers * num_fresh * layer_flops(config, 0)
    return Work(flops, weights + (num_fresh + num_columns) * row_bytes)


def attention_work(batch: Batch, model: Model, format: KVFormat) -> Work:
    """Of q k and p v over the pairs of tokens that see each other, and of the cached tokens that anybody sees."""
    config = model.config
    pages = joined_pages(batch.pages, batch.tiles)
    seen = np.asarray(visible(batch.tokens, all_keys(batch.tokens, pages), config.sliding_window))
    num_slots = pages.drop[0].size
    flops = 4.0 * config.num_heads * config.head_dim * config.num_layers * int(seen.sum())
    num_read = int(seen[..., :num_slots].any(1).sum())
    return Work(flops, num_read * format.page_bytes / format.page_tokens)


def _device_read() -> float:
    array = jnp.ones((READ_BYTES // 4,), jnp.float32)
    total = jax.jit(jnp.sum)
    return READ_BYTES / _best_s(lambda: total(array).block_until_ready())


def _host_read() -> float:
    """By a thread a core, as what JAX makes of a sum on a CPU need not be as fast as memory is."""
    num_threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parts = np.array_split(np.ones(READ_BYTES // 4, np.float32), num_threads)
    with ThreadPoolExecutor(num_threads) as threads:
        return READ_BYTES / _best_s(lambda: list(threads.map(lambda part: part @ part, parts)))


def matmul_flops_per_s(dtype: Any) -> float:
    """The best rate of this run, on a square that fits no cache."""
    a = jnp.ones((MATMUL_SIZE, MATMUL_SIZE), dtype)
    multiply = partial(jax.jit(jnp.matmul), a, a)
    return 2 * MATMUL_SIZE**3 / _best_s(lambda: multiply().block_until_ready())


def _best_s(call: Callable[[], Any]) -> float:
    call()
    return min(seconds(call) for _ in range(REPEATS))


def seconds(call: Callable[[], Any]) -> float:
    """What a call takes that blocks until its result is there."""
    start_s = time.perf_counter()
    call()
    return time.perf_counter() - start_s

"""The dtype of the weights where it is left open: bfloat16 where that pays."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jax import Array

from rcjax.model.config import ModelConfig

# bfloat16 rounds more, so a small gain does not pay, and a gain of a fifth is not the noise of a busy machine.
MIN_SPEEDUP = 1.2
NUM_TOKENS = (20, 160)  # what `parallel` and `rcjax` compute of a request with 20 candidates
MAX_DIM = 2048  # products of larger matrices run at much the same rate, and take long to measure
NUM_ROUNDS, MIN_ROUNDS, BUDGET_S = 8, 2, 0.3

# All that depends on the version of JAX: on the CPU, older ones convert a whole bfloat16 pool to float32 in each pass.
FIRST_JAX_FOR_BFLOAT16_ON_CPU = (0, 12)


@dataclass(frozen=True, slots=True)
class DtypeChoice:
    """A dtype of weights, and why it was chosen."""

    dtype: str
    reason: str


@dataclass(frozen=True, slots=True)
class ProductTimes:
    """Seconds that the products of a layer take in each dtype, over both numbers of tokens."""

    float32: float
    bfloat16: float


def measure_products(config: ModelConfig, clock: Callable[[], float] = time.perf_counter) -> ProductTimes:
    """Takes a few hundred milliseconds and compilation: the dtypes take turns, and the best of several times counts."""
    weights = {dtype: [jnp.ones(shape, dtype) for shape in _shapes(config)] for dtype in ("float32", "bfloat16")}
    width = weights["float32"][0].shape[0]
    runs = [(dtype, jnp.ones((num_tokens, width), dtype)) for dtype in weights for num_tokens in NUM_TOKENS]
    best_s = [float("inf")] * len(runs)
    for dtype, x in runs:
        jax.block_until_ready(_products(x, weights[dtype]))  # compiles
    first_s = clock()
    for number in range(NUM_ROUNDS):
        for index, (dtype, x) in enumerate(runs):
            start_s = clock()
            jax.block_until_ready(_products(x, weights[dtype]))
            best_s[index] = min(best_s[index], clock() - start_s)
        if number + 1 >= MIN_ROUNDS and clock() - first_s > BUDGET_S:
            break
    return ProductTimes(sum(best_s[: len(NUM_TOKENS)]), sum(best_s[len(NUM_TOKENS) :]))


def _shapes(config: ModelConfig) -> list[tuple[int, int]]:
    """Those of a layer's matrices, as far as they are measured: q, k, v, o, gate, up, down."""
    d, f = min(config.d_model, MAX_DIM), min(config.d_ff, MAX_DIM)
    q = min(config.num_heads * config.head_dim, MAX_DIM)
    kv = min(config.num_kv_heads * config.head_dim, MAX_DIM)
    return [(d, q), (d, kv), (d, kv), (q, d), (d, f), (d, f), (f, d)]


@jax.jit
def _products(x: Array, weights: list[Array]) -> tuple[Array, Array, Array]:
    """Linear layers in the order of the decoder's; all of them are needed for what is returned."""
    q, k, v, o, gate, up, down = weights
    attended = x @ q @ o
    return (jax.nn.silu(attended @ gate) * (attended @ up)) @ down, x @ k, x @ v


@dataclass(frozen=True, slots=True)
class AutoDtype:
    """bfloat16 on accelerators and on a CPU where it is measured to be faster by `MIN_SPEEDUP`, else float32."""

    platform: str = field(default_factory=jax.default_backend)
    jax_version: tuple[int, ...] = jax.__version_info__
    measure: Callable[[ModelConfig], ProductTimes] = measure_products

    def choose(self, config: ModelConfig) -> DtypeChoice:
        if self.platform != "cpu":
            return DtypeChoice("bfloat16", f"auto: a {self.platform} is made for it")
        if self.jax_version < FIRST_JAX_FOR_BFLOAT16_ON_CPU:
            version, first = (".".join(map(str, parts)) for parts in (self.jax_version, FIRST_JAX_FOR_BFLOAT16_ON_CPU))
            return DtypeChoice("float32", f"auto: on the CPU, jax {version} is slow in bfloat16; {first} is not")
        times = self.measure(config)
        speedup = times.float32 / times.bfloat16
        return DtypeChoice(
            "bfloat16" if speedup >= MIN_SPEEDUP else "float32",
            f"auto: bfloat16 is {speedup:.2f} times as fast, {1e3 * times.bfloat16:.2f} ms instead of "
            f"{1e3 * times.float32:.2f} for the products of a layer, and pays from {MIN_SPEEDUP} on",
        )

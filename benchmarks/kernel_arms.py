"""The arms of benchmarks/kernels.py: ways to attend to the same prompts, each as a scan of many layers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool
from kernel_work import GATHER_CUDNN, GATHER_XLA, KERNEL, Layouts, cached_bytes, heads_of

from rcjax.kernels.arrays import register_arrays
from rcjax.kernels.kv import QUANTISED_DTYPES, PagedKV
from rcjax.kernels.quantisation import quantise
from rcjax.kernels.selective_attention import Attention, PageLayout, Rope, TileLayout, TokenLayout
from rcjax.kernels.selective_attention.case import Case
from rcjax.kernels.selective_attention.config import GpuTiling, TpuTiling
from rcjax.kernels.selective_attention.dispatch import DEVICE_KERNELS, choose_attention
from rcjax.kernels.selective_attention.keys import PageView, gather_keys, gather_values, view_pages
from rcjax.kernels.selective_attention.layout import joined_pages
from rcjax.kernels.selective_attention.mass import measure
from rcjax.kernels.selective_attention.pallas_gpu import pallas_gpu
from rcjax.kernels.selective_attention.pallas_tpu import pallas_tpu
from rcjax.kernels.selective_attention.visibility import all_keys, visible


@register_arrays
@dataclass(frozen=True, slots=True)
class GatheredView:
    """The pages that are copied, and which query sees which key."""

    pages: PageView
    seen: Bool[Array, "B T S"]


@dataclass(frozen=True, slots=True)
class AttendGathered:
    """`Attend` by a copy of all cached keys and values and JAX's own attention over them."""

    implementation: Any

    def __call__(self, view: GatheredView, q: Array, k_new: Array, v_new: Array, kv: PagedKV, first_page: Any) -> Array:
        k = jnp.concatenate([gather_keys(view.pages, kv, first_page, q.dtype), k_new], axis=1)
        v = jnp.concatenate([gather_values(view.pages, kv, first_page, q.dtype), v_new], axis=1)
        return jax.nn.dot_product_attention(q, k, v, mask=view.seen[:, None], implementation=self.implementation)


def view_gathered(
    tokens: TokenLayout, pages: PageLayout, tiles: TileLayout | None, *, rope: Rope, window: int | None
) -> GatheredView:
    pages = joined_pages(pages, tiles)
    return GatheredView(view_pages(pages, rope), visible(tokens, all_keys(tokens, pages), window))


def device_kernel() -> str | None:
    """The name of the present device's kernel."""
    backend = jax.default_backend()
    return next((name for name, device in DEVICE_KERNELS.items() if device == backend), None)


def with_tiling(name: str, tiling: GpuTiling | TpuTiling) -> Attention:
    """The kernel of that name, compiled, in one tiling."""
    return pallas_gpu(tiling=tiling) if isinstance(tiling, GpuTiling) else pallas_tpu(tiling=tiling)


def paged_arms(case: Case, interpret: bool) -> dict[str, Attention]:
    """The arms that read pages. The kernel is the present device's, as served: in the tiling of its tuned table."""
    if interpret:
        kernel = pallas_gpu(interpret=True, tiling=GpuTiling.default(heads_of(case)))
    else:
        kernel = choose_attention(str(device_kernel()), heads_of(case))
    arms = {KERNEL: kernel, GATHER_XLA: Attention(GATHER_XLA, view_gathered, AttendGathered("xla"), measure)}
    if interpret or jax.default_backend() == "gpu":
        arms[GATHER_CUDNN] = Attention(GATHER_CUDNN, view_gathered, AttendGathered("cudnn"), measure)
    return arms


class Drawn:
    """A shape's arrays on the device: random, with KV of several layers in one pool."""

    def __init__(self, case: Case, at: Layouts, prompt_len: int, pool_bytes: int):
        self.case, self.at = case, at
        self.batch: int = at.tokens.pos.shape[0]
        self.num_fresh: int = at.tokens.pos.shape[1]
        self.prompt_len = prompt_len
        self._dtype, self._key = jnp.dtype(case.dtype), jax.random.key(0)
        token = (case.num_kv_heads, case.head_dim)
        layer_bytes = at.num_pages * case.page_tokens * cached_bytes(case)
        self.num_layers = max(2, int(-(-pool_bytes // layer_bytes)))
        self.q = self.draw(self.batch, self.num_fresh, case.num_heads, case.head_dim)
        self.k_new, self.v_new = (self.draw(self.batch, self.num_fresh, *token) for _ in range(2))
        self.kv = self._pool(self.num_layers * at.num_pages, case.page_tokens, *token)

    def draw(self, *shape: int) -> Array:
        self._key, key = jax.random.split(self._key)
        return jax.jit(jax.random.normal, static_argnums=(1, 2))(key, shape, self._dtype)

    def _pool(self, *shape: int) -> PagedKV:
        dtype = jnp.dtype(self.case.kv_dtype or self.case.dtype)
        if dtype.name not in QUANTISED_DTYPES:
            return PagedKV(self.draw(*shape).astype(dtype), self.draw(*shape).astype(dtype))

        quantised = jax.jit(lambda x: quantise(x, dtype))
        (k, k_scale), (v, v_scale) = quantised(self.draw(*shape)), quantised(self.draw(*shape))
        return PagedKV(k, v, k_scale, v_scale)


def paged(attention: Attention, drawn: Drawn, num_steps: int) -> Callable[[], Array]:
    """A scan of `num_steps` layers, each over pages of its own; what one finds is asked by the next."""
    view = jax.jit(lambda at: attention.view(*at[:3], rope=drawn.case.rope, window=drawn.case.window))(drawn.at)

    def layers(view: Any, q: Array, k_new: Array, v_new: Array, kv: PagedKV) -> Array:
        def layer(q: Array, step: Array) -> tuple[Array, None]:
            first_page = step % drawn.num_layers * drawn.at.num_pages
            return attention(view, q, k_new, v_new, kv, first_page), None

        return lax.scan(layer, q, jnp.arange(num_steps))[0]

    return compiled(layers, view, drawn.q, drawn.k_new, drawn.v_new, drawn.kv)


def full(implementation: Any, drawn: Drawn, num_steps: int) -> Callable[[], Array]:
    """Causal attention of whole prompts to themselves, nothing of them cached."""
    case = drawn.case
    shapes = [(drawn.batch, drawn.prompt_len, heads, case.head_dim) for heads in (case.num_heads, case.num_kv_heads)]
    q, k, v = (drawn.draw(*shape) for shape in (shapes[0], shapes[1], shapes[1]))

    def layers(q: Array, k: Array, v: Array) -> Array:
        def layer(q: Array, _: Array) -> tuple[Array, None]:
            return jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation=implementation), None

        return lax.scan(layer, q, jnp.arange(num_steps))[0]

    return compiled(layers, q, k, v)


def compiled(function: Callable[..., Array], *args: Any) -> Callable[[], Array]:
    """Compiled and warm; a call blocks until its result is there."""
    program = jax.jit(function).lower(*args).compile()

    def call() -> Array:
        return program(*args).block_until_ready()

    call()
    return call


def largest_difference(one: Attention, other: Attention, drawn: Drawn) -> float:
    """Of one layer, relative to the largest output; infinite where one of them has a NaN that the other has not."""
    found, expected = (np.asarray(paged(attention, drawn, 1)(), np.float32) for attention in (one, other))
    error = np.abs(found - expected).max() / np.abs(expected).max()
    return float(error) if np.isfinite(error) else float("inf")

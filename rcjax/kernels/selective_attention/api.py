"""Selective attention: fresh queries against paged cached KV and fresh KV, in one softmax.

One rule says who sees whom, whether a key is cached or fresh. A query at position `p`, in segment `s` and with
horizon `h`, sees a key at position `p'` in segment `s'` iff

    p' <= p   and   (s' < h or s' == s)   and   (no window, or p - p' < window).

In the `sequential` layout every token is in segment 0 and the rule is causal attention; in the `parallel` layout
segments keep the blocks apart (see `rcjax.prompt`).
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Array, Bool, Float

from rcjax.kernels.arrays import AnyArray
from rcjax.kernels.selective_attention.layout import PageLayout, Rope, TokenLayout


@runtime_checkable
class Attend(Protocol):
    """Computes `Attention.__call__` from arguments that have been checked."""

    def __call__(
        self, q: Array, k_new: Array, v_new: Array, tokens: TokenLayout, k_pages: AnyArray, v_pages: AnyArray,
        pages: PageLayout, *, rope: Rope, window: int | None,
    ) -> Array: ...  # fmt: skip


@runtime_checkable
class Measure(Protocol):
    """Computes `Attention.mass` from arguments that have been checked."""

    def __call__(
        self, q: Array, k_new: Array, tokens: TokenLayout, counts: AnyArray, k_pages: AnyArray, pages: PageLayout,
        *, rope: Rope, window: int | None,
    ) -> tuple[Array, Array]: ...  # fmt: skip


@dataclass(frozen=True, slots=True)
class Attention:
    """One implementation of the operator, chosen at start-up (`choose_attention`) and passed to every pass.

    Compares by its parts, so it can be a static argument of a jitted function. Arguments are checked here, whatever
    the implementation is.
    """

    name: str
    attend: Attend
    measure: Measure

    def __call__(
        self,
        q: Float[Array, "B T N H"],
        k_new: Float[Array, "B T K H"],
        v_new: Float[Array, "B T K H"],
        tokens: TokenLayout,
        k_pages: Float[AnyArray, "P C K H"],
        v_pages: Float[AnyArray, "P C K H"],
        pages: PageLayout,
        *,
        rope: Rope,
        window: int | None = None,
    ) -> Float[Array, "B T N H"]:
        """Attends from each fresh token to all that it may see; `q`, `k_new` and `k_pages` are unrotated.

        Scores are scaled by `H ** -0.5` and accumulated in float32. Padding queries yield zeros. Pages are read
        where they are: `k_pages` may be a whole pool, of which `pages.table` names a few. Their dtype need not be
        that of the fresh tokens, which is that of the result.
        """
        _check(q, k_new, k_pages, pages, rope, window)
        return self.attend(q, k_new, v_new, tokens, k_pages, v_pages, pages, rope=rope, window=window)

    def mass(
        self,
        q: Float[Array, "B T N H"],
        k_new: Float[Array, "B T K H"],
        tokens: TokenLayout,
        counts: Bool[AnyArray, "B T"],
        k_pages: Float[AnyArray, "P C K H"],
        pages: PageLayout,
        *,
        rope: Rope,
        window: int | None = None,
    ) -> tuple[Float[Array, "B M C"], Float[Array, "B T"]]:
        """Attention that each cached and each fresh token receives from the queries in `counts`, float32.

        A query that counts gives N in total, 1 a head. Padding queries give nothing; slots that are dropped or beyond
        a page's end get nothing.
        """
        _check(q, k_new, k_pages, pages, rope, window)
        return self.measure(q, k_new, tokens, counts, k_pages, pages, rope=rope, window=window)


def _check(q: Array, k_new: Array, k_pages: AnyArray, pages: PageLayout, rope: Rope, window: int | None) -> None:
    num_heads, num_kv_heads = q.shape[2], k_new.shape[2]
    if num_heads % num_kv_heads:
        raise ValueError(f"{num_heads=} must be a multiple of {num_kv_heads=}")
    if 2 * rope.inv_freq.shape[0] != q.shape[3]:
        raise ValueError(f"{rope.inv_freq.shape=} must hold half of head_dim={q.shape[3]}")
    if window is not None and window < 1:
        raise ValueError(f"{window=} must be at least 1")
    if pages.drop.shape[2] != k_pages.shape[1]:
        raise ValueError(f"{pages.drop.shape=} must end in page_tokens={k_pages.shape[1]}")

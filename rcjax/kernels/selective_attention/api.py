"""Selective attention: fresh queries against paged cached KV and fresh KV, in one softmax.

One rule says who sees whom, whether a key is cached or fresh. A query at position `p`, in segment `s` and with
horizon `h`, sees a key at position `p'` in segment `s'` iff

    p' <= p   and   (s' < h or s' == s)   and   (no window, or p - p' < window).

In the `sequential` layout every token is in segment 0 and the rule is causal attention; in the `parallel` layout
segments keep the blocks apart (see `rcjax.prompt`).

Queries and keys come rotated. A cached key was rotated at its home, where it was computed; a page's `shift` says how
far from there its tokens stand in this prompt, and the operator turns its keys by that one angle per frequency.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import jax
from jaxtyping import Array, Bool, Float, Int

from rcjax.kernels.arrays import AnyArray
from rcjax.kernels.kv import PagedKV
from rcjax.kernels.selective_attention.layout import PageLayout, Rope, TileLayout, TokenLayout


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True)
class View:
    """What an implementation worked out for a pass, and the sizes that it was made for."""

    made: Any  # a pytree of arrays that only the implementation reads
    head_dim: int = field(metadata={"static": True})
    page_tokens: int = field(metadata={"static": True})


@runtime_checkable
class MakeView(Protocol):
    """Computes what `Attention.view` holds from arguments that have been checked."""

    def __call__(
        self, tokens: TokenLayout, pages: PageLayout, tiles: TileLayout | None, *, rope: Rope, window: int | None
    ) -> Any: ...


@runtime_checkable
class Attend(Protocol):
    """Computes `Attention.__call__` from arguments that have been checked."""

    def __call__(
        self, view: Any, q: Array, k_new: Array, v_new: Array, kv: PagedKV, first_page: Int[AnyArray, ""] | int
    ) -> Array: ...


@runtime_checkable
class Measure(Protocol):
    """Computes `Attention.mass` from arguments that have been checked."""

    def __call__(
        self, q: Array, k_new: Array, tokens: TokenLayout, counts: AnyArray, kv: PagedKV, pages: PageLayout, *,
        rope: Rope, window: int | None,
    ) -> tuple[Array, Array]: ...  # fmt: skip


@dataclass(frozen=True, slots=True)
class Attention:
    """One implementation of the operator, chosen at start-up (`choose_attention`) and passed to every pass.

    Compares by its parts, so it can be a static argument of a jitted function. Arguments are checked here, whatever
    the implementation is.
    """

    name: str
    make_view: MakeView
    attend: Attend
    measure: Measure

    def view(
        self,
        tokens: TokenLayout,
        pages: PageLayout,
        tiles: TileLayout | None = None,
        *,
        rope: Rope,
        window: int | None = None,
    ) -> View:
        """What does not change from layer to layer, worked out once a pass: who sees whom, and how far keys turn.

        The fresh tokens may see `pages`, and those of a tile its pages too.
        """
        _check_window(window)
        page_tokens = pages.drop.shape[2]
        if tiles is not None and tiles.pages.drop.shape[3] != page_tokens:
            raise ValueError(f"{tiles.pages.drop.shape=} must end in {page_tokens=}, as that of the shared pages does")
        made = self.make_view(tokens, pages, tiles, rope=rope, window=window)
        return View(made, 2 * len(rope.inv_freq), page_tokens)

    def __call__(
        self,
        view: View,
        q: Float[Array, "B T N H"],
        k_new: Float[Array, "B T K H"],
        v_new: Float[Array, "B T K H"],
        kv: PagedKV,
        first_page: Int[AnyArray, ""] | int = 0,
    ) -> Float[Array, "B T N H"]:
        """Attends from each fresh token to all that it may see; `q` and `k_new` are rotated to where they stand.

        Scores are scaled by `H ** -0.5`; products accumulate in float32. Padding queries yield zeros. Pages are read
        where they are: `kv` may be a whole pool, of which the view's tables name a few, counted from
        `first_page`. Their dtype need not be that of the fresh tokens, which is that of the result.
        """
        _check_sizes(q, k_new, kv, view.head_dim, view.page_tokens)
        return self.attend(view.made, q, k_new, v_new, kv, first_page)

    def mass(
        self,
        q: Float[Array, "B T N H"],
        k_new: Float[Array, "B T K H"],
        tokens: TokenLayout,
        counts: Bool[AnyArray, "B T"],
        kv: PagedKV,
        pages: PageLayout,
        *,
        rope: Rope,
        window: int | None = None,
    ) -> tuple[Float[Array, "B M C"], Float[Array, "B T"]]:
        """Attention that each cached and each fresh token receives from the queries in `counts`, float32.

        A query that counts gives N in total, 1 a head. Padding queries give nothing; slots that are dropped or beyond
        a page's end get nothing.
        """
        _check_window(window)
        _check_sizes(q, k_new, kv, 2 * len(rope.inv_freq), pages.drop.shape[2])
        return self.measure(q, k_new, tokens, counts, kv, pages, rope=rope, window=window)


def _check_window(window: int | None) -> None:
    if window is not None and window < 1:
        raise ValueError(f"{window=} must be at least 1")


def _check_sizes(q: Array, k_new: Array, kv: PagedKV, head_dim: int, page_tokens: int) -> None:
    """Of what is attended to, against those that rope (`head_dim`) and drop masks (`page_tokens`) are for."""
    num_heads, num_kv_heads = q.shape[2], k_new.shape[2]
    if num_heads % num_kv_heads:
        raise ValueError(f"{num_heads=} must be a multiple of {num_kv_heads=}")
    if q.shape[3] != head_dim:
        raise ValueError(f"rope.inv_freq of {head_dim // 2} must hold half of head_dim={q.shape[3]}")
    if (kv.k_scale is None) != (kv.v_scale is None):
        raise ValueError("either both K and V of pages have scales, or neither")
    if kv.k.shape[1] != page_tokens:
        raise ValueError(f"pages.drop is for pages of {page_tokens}, which have page_tokens={kv.k.shape[1]}")

"""Selective attention: fresh queries against paged cached KV and fresh KV, in one softmax.

One rule says who sees whom, whether a key is cached or fresh. A query at position `p`, in segment `s` and with
horizon `h`, sees a key at position `p'` in segment `s'` iff

    p' <= p   and   (s' < h or s' == s)   and   (no window, or p - p' < window).

In the `sequential` layout every token is in segment 0 and the rule is causal attention; in the `parallel` layout
segments keep the blocks apart (see `rcjax.prompt`).
"""

from jaxtyping import Array, Float

from rcjax.kernels.selective_attention import reference
from rcjax.kernels.selective_attention.layout import PageLayout, Rope, TokenLayout


def selective_attention(
    q: Float[Array, "B T N H"],
    k_new: Float[Array, "B T K H"],
    v_new: Float[Array, "B T K H"],
    tokens: TokenLayout,
    k_pages: Float[Array, "P C K H"],
    v_pages: Float[Array, "P C K H"],
    pages: PageLayout,
    *,
    rope: Rope,
    window: int | None = None,
) -> Float[Array, "B T N H"]:
    """Attends from each fresh token to all that it may see; `q`, `k_new` and `k_pages` are unrotated.

    Scores are scaled by `H ** -0.5` and accumulated in float32. Padding queries yield zeros. Pages are read
    where they are: `k_pages` may be a whole pool, of which `pages.table` names a few.
    """
    num_heads, num_kv_heads = q.shape[2], k_new.shape[2]
    if num_heads % num_kv_heads:
        raise ValueError(f"{num_heads=} must be a multiple of {num_kv_heads=}")
    if 2 * rope.inv_freq.shape[0] != q.shape[3]:
        raise ValueError(f"{rope.inv_freq.shape=} must hold half of head_dim={q.shape[3]}")
    if window is not None and window < 1:
        raise ValueError(f"{window=} must be at least 1")
    if pages.drop.shape[2] != k_pages.shape[1]:
        raise ValueError(f"{pages.drop.shape=} must end in page_tokens={k_pages.shape[1]}")
    return reference.selective_attention(q, k_new, v_new, tokens, k_pages, v_pages, pages, rope=rope, window=window)

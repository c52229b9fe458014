"""Which query sees which key: the operator's one rule (see `api`) as a mask."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from rcjax.kernels.arrays import AnyArray
from rcjax.kernels.selective_attention.layout import PageLayout, TokenLayout

MASKED = -1e30  # a hidden key's score; finite, so that a row in which all are hidden stays free of NaN


class KeyLayout(NamedTuple):
    """Where the S keys of each prompt, or of each of its tiles, stand.

    A key that is not valid is nobody's: dropped, beyond a page's end, or padding.
    """

    pos: Int[AnyArray, "B *I S"]
    segment: Int[AnyArray, "B *I S"]
    valid: Bool[AnyArray, "B *I S"]


def cached_keys(pages: PageLayout) -> KeyLayout:
    """The cached keys, page by page."""
    shape = pages.drop.shape
    offset = jnp.arange(shape[-1])
    layout = KeyLayout(
        pages.pos[..., None] + offset,
        jnp.broadcast_to(pages.segment[..., None], shape),
        (offset < pages.len[..., None]) & ~pages.drop,
    )
    return KeyLayout(*(x.reshape(*shape[:-2], -1) for x in layout))


def all_keys(tokens: TokenLayout, pages: PageLayout, multiple_of: int = 1) -> KeyLayout:
    """Cached keys page by page, then fresh ones, then padding to a multiple of `multiple_of`."""
    fresh = KeyLayout(tokens.pos, tokens.segment, tokens.pos >= 0)
    joined = [jnp.concatenate(pair, axis=1) for pair in zip(cached_keys(pages), fresh, strict=True)]
    padding = -joined[0].shape[1] % multiple_of
    return KeyLayout(*(jnp.pad(x, ((0, 0), (0, padding))) for x in joined))


def visible(tokens: TokenLayout, keys: KeyLayout, window: int | None) -> Bool[Array, "B *I T S"]:
    """Whether each query of `tokens` [B, *I, T] sees each key."""
    query_pos, key_pos = tokens.pos[..., :, None], keys.pos[..., None, :]
    key_segment = keys.segment[..., None, :]
    same = key_segment == tokens.segment[..., :, None]
    seen = keys.valid[..., None, :] & (key_pos <= query_pos) & (same | (key_segment < tokens.horizon[..., :, None]))
    if window is not None:
        seen &= query_pos - key_pos < window
    return jnp.asarray(seen)

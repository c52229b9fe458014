"""Which query sees which key: the operator's one rule (see `api`) as a mask."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from rcjax.kernels.arrays import AnyArray
from rcjax.kernels.selective_attention.layout import PageLayout, TokenLayout

MASKED = -1e30  # a hidden key's score; finite, so that a row in which all are hidden stays free of NaN


class KeyLayout(NamedTuple):
    """Where the S keys of each prompt stand: cached ones page by page, then fresh ones, then padding.

    A key that is not valid is nobody's: dropped, beyond a page's end, or padding.
    """

    pos: Int[AnyArray, "B S"]
    segment: Int[AnyArray, "B S"]
    valid: Bool[AnyArray, "B S"]


def key_layout(tokens: TokenLayout, pages: PageLayout, multiple_of: int = 1) -> KeyLayout:
    """The layout of all keys, padded to a multiple of `multiple_of`."""
    batch, _, page_tokens = pages.drop.shape
    offset = jnp.arange(page_tokens)
    cached = KeyLayout(
        pages.pos[..., None] + offset,
        jnp.broadcast_to(pages.segment[..., None], pages.drop.shape),
        (offset < pages.len[..., None]) & ~pages.drop,
    )
    fresh = KeyLayout(tokens.pos, tokens.segment, tokens.pos >= 0)
    joined = [jnp.concatenate([c.reshape(batch, -1), f], axis=1) for c, f in zip(cached, fresh, strict=True)]
    padding = -joined[0].shape[1] % multiple_of
    return KeyLayout(*(jnp.pad(x, ((0, 0), (0, padding))) for x in joined))


def visible(tokens: TokenLayout, keys: KeyLayout, window: int | None) -> Bool[Array, "B T S"]:
    """Whether each fresh token's query sees each key; integers only, so it costs as much as one head's scores."""
    query_pos, key_pos = tokens.pos[:, :, None], keys.pos[:, None, :]
    key_segment = keys.segment[:, None, :]
    same = key_segment == tokens.segment[:, :, None]
    seen = keys.valid[:, None, :] & (key_pos <= query_pos) & (same | (key_segment < tokens.horizon[:, :, None]))
    if window is not None:
        seen &= query_pos - key_pos < window
    return jnp.asarray(seen)

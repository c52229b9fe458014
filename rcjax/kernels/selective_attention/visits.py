"""Which pages each block of queries has to read, worked out once a pass and the same in all layers."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from rcjax.kernels.arrays import AnyArray, register_arrays
from rcjax.kernels.selective_attention.layout import TokenLayout
from rcjax.kernels.selective_attention.query_blocks import pad_tokens
from rcjax.kernels.selective_attention.rotation import Rotation
from rcjax.kernels.selective_attention.visibility import KeyLayout, visible

NO_KEY = np.iinfo(np.int32).max  # the position of a slot that holds no key: behind every query


@register_arrays
@dataclass(frozen=True, slots=True)
class Visits:
    """For each of U prompts (or tiles) and each of its I blocks of Q queries: the pages that hold a key it sees.

    A block visits the first `count` of its lists, which name an entry of the prompt's M pages (`entry`) and the page
    of the pool that it stands for (`page`). Positions and segments of keys are per slot, so that one comparison tells
    a slot without a key; `turn` is per entry, None where no key turns. `oldest` is the first position that a query's
    window reaches, None where it has none.
    """

    count: Int[Array, "U I"]
    entry: Int[Array, "U I M"]
    page: Int[Array, "U I M"]
    queries: TokenLayout  # [U, I, Q]
    oldest: Int[Array, "U I Q"] | None
    key_pos: Int[Array, "U S"]
    key_segment: Int[Array, "U S"]
    turn: Rotation | None  # [U, M, H/2]

    @property
    def page_tokens(self) -> int:
        return self.key_pos.shape[1] // self.entry.shape[2]


def query_columns(queries: TokenLayout, oldest: Int[Array, "U I Q"] | None) -> tuple[Int[AnyArray, "U I Q"], ...]:
    """Position, segment, horizon and, where there is a window, the oldest position of each query."""
    return queries.pos, queries.segment, queries.horizon, *(() if oldest is None else (oldest,))


def visits(
    tokens: TokenLayout,
    keys: KeyLayout,
    table: Int[AnyArray, "U M"],
    turn: Rotation | None,
    *,
    query_block: int,
    window: int | None,
) -> Visits:
    """The visits of `tokens` [U, T], in blocks of `query_block`, to the pages of `table` that hold `keys` [U, S]."""
    tokens = pad_tokens(tokens, query_block)
    num_units, num_pages = table.shape
    seen = visible(tokens, keys, window).reshape(num_units, -1, query_block, num_pages, keys.pos.shape[1] // num_pages)
    is_seen = seen.any((2, 4))
    entry = jnp.argsort(~is_seen, axis=2, stable=True).astype(jnp.int32)
    queries = TokenLayout(*(x.reshape(*is_seen.shape[:2], -1) for x in (tokens.pos, tokens.segment, tokens.horizon)))
    return Visits(
        count=is_seen.sum(2, dtype=jnp.int32),
        entry=entry,
        page=jnp.take_along_axis(jnp.asarray(table)[:, None], entry, axis=2),
        queries=queries,
        oldest=None if window is None else jnp.asarray(queries.pos - window + 1),
        key_pos=jnp.where(keys.valid, keys.pos, NO_KEY),
        key_segment=jnp.asarray(keys.segment),
        turn=turn,
    )

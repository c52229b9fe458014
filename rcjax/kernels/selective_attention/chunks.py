"""Attention over many keys: queries in blocks, keys in chunks with a running softmax, and no chunk that no query sees.

So no [T, S] matrix of scores is ever formed, and what a block of queries does not see costs nothing. That is causal
skipping in the `sequential` layout and block-sparse attention in the `parallel` one, from the same rule.
"""

from dataclasses import dataclass

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from rcjax.kernels.arrays import register_arrays
from rcjax.kernels.selective_attention.layout import TokenLayout
from rcjax.kernels.selective_attention.query_blocks import join_rows, pad_tokens, split_queries
from rcjax.kernels.selective_attention.softmax import Partial
from rcjax.kernels.selective_attention.visibility import MASKED, KeyLayout, visible

# Two cores, SmolLM2, a whole pass in float32: 160 queries over 2,100 keys take 450 ms with 160 x 1,056 and 590 with
# 64 x 512; the attention of 1,920 fresh tokens takes 1.43 s with 192 x 384, 1.69 with 128 x 512, 1.74 with 256 x 512.
FEW_QUERIES, QUERY_BLOCK = 192, 192
WIDE_CHUNK, CHUNK = 1056, 384


@register_arrays
@dataclass(frozen=True, slots=True)
class ChunkView:
    """Which of I blocks of queries sees which of J chunks of keys, and which query of it which key.

    Block i sees the first `count[i]` chunks of `order[i]`.
    """

    seen: Bool[Array, "I B J Q C"]
    order: Int[Array, "I J"]
    count: Int[Array, "I"]


def chunk_len(num_fresh: int, num_keys: int, multiple_of: int = 1) -> int:
    """How many keys make a chunk, all of them alike; the caller pads the keys to whole chunks."""
    largest = WIDE_CHUNK if num_fresh <= FEW_QUERIES else CHUNK
    num_chunks = max(1, -(-num_keys // largest))
    return -(-num_keys // (num_chunks * multiple_of)) * multiple_of


def view_chunks(tokens: TokenLayout, keys: KeyLayout, chunk: int, window: int | None) -> ChunkView:
    batch, num_fresh = tokens.pos.shape
    num_keys = keys.pos.shape[1]
    query_block = _query_block(num_fresh)
    seen = visible(pad_tokens(tokens, query_block), keys, window)
    seen = seen.reshape(batch, -1, query_block, num_keys // chunk, chunk)
    is_seen = seen.any((0, 2, 4))  # [I, J]
    order = jnp.argsort(~is_seen, axis=1, stable=True)
    return ChunkView(seen.transpose(1, 0, 3, 2, 4), order, is_seen.sum(1))


def attend_chunks(
    q: Float[Array, "B T N H"], k: Float[Array, "B K H S"], v: Float[Array, "B K S H"], view: ChunkView
) -> Partial:
    """Of each query and head, [B, T, N]. Products have operands of the type of `q` and accumulate in float32."""
    num_fresh, num_kv_heads = q.shape[1], k.shape[1]
    query_block = view.seen.shape[3]
    blocks = split_queries(q, num_kv_heads, query_block)
    if view.seen.shape[0] == view.seen.shape[2] == 1:
        found = _attend_chunk(blocks[0], k, v, view.seen[0, :, 0])
        found = Partial(*(x[None] for x in found))
    else:

        def block(args: tuple[Array, Array, Array, Array]) -> Partial:
            return _attend_block(*args, k, v)

        found = lax.map(block, (blocks, view.seen, view.order, view.count))
    return Partial(*(join_rows(x, query_block, num_fresh) for x in found))


def _query_block(num_fresh: int) -> int:
    return num_fresh if num_fresh <= FEW_QUERIES else QUERY_BLOCK


def _attend_block(
    q: Float[Array, "B K R H"],
    seen: Bool[Array, "B J Q C"],
    order: Int[Array, "J"],
    count: Int[Array, ""],
    k: Float[Array, "B K H S"],
    v: Float[Array, "B K S H"],
) -> Partial:
    """One block of queries (R = G * Q rows a kv head) over the chunks that it sees, by running softmax."""
    chunk = seen.shape[3]

    def step(j: Array, so_far: Partial) -> Partial:
        index = order[j]
        k_chunk = lax.dynamic_slice_in_dim(k, index * chunk, chunk, axis=3)
        v_chunk = lax.dynamic_slice_in_dim(v, index * chunk, chunk, axis=2)
        mask = lax.dynamic_index_in_dim(seen, index, axis=1, keepdims=False)
        # Not `merge` with what `_attend_chunk` finds: to weigh by the running top saves a seventh of a full recompute.
        scores = _scores(q, k_chunk, mask)
        top = jnp.maximum(so_far.top, scores.max(-1))
        weights = jnp.exp(scores - top[..., None])
        decay = jnp.exp(so_far.top - top)
        out = so_far.out * decay[..., None] + _weighted(weights, v_chunk)
        return Partial(top, so_far.total * decay + weights.sum(-1), out)

    start = Partial(jnp.full(q.shape[:3], MASKED), jnp.zeros(q.shape[:3]), jnp.zeros(q.shape))
    return lax.fori_loop(0, count, step, start)


def _attend_chunk(
    q: Float[Array, "B K R H"], k: Float[Array, "B K H S"], v: Float[Array, "B K S H"], seen: Bool[Array, "B Q S"]
) -> Partial:
    scores = _scores(q, k, seen)
    top = scores.max(-1)
    weights = jnp.exp(scores - top[..., None])
    return Partial(top, weights.sum(-1), _weighted(weights, v))


def _scores(q: Float[Array, "B K R H"], k: Float[Array, "B K H S"], seen: Bool[Array, "B Q S"]) -> Array:
    """Float32 scores [B, K, R, S], R being G heads of Q queries; masked where a key is not seen."""
    scores = jnp.einsum("bkrh,bkhs->bkrs", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    by_head = scores.reshape(*scores.shape[:2], -1, *seen.shape[1:])
    return jnp.where(seen[:, None, None], by_head, MASKED).reshape(scores.shape)


def _weighted(weights: Float[Array, "B K R S"], v: Float[Array, "B K S H"]) -> Array:
    return jnp.einsum("bkrs,bksh->bkrh", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)

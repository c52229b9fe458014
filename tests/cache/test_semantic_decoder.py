"""A pool of a real decoder's KV, put back into that decoder's pages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rcjax.cache.semantic import InstanceFields, SemanticPool, TokenEmbedding
from rcjax.kernels.kv import KVPages
from rcjax.kernels.selective_attention import REFERENCE, PageLayout, TokenLayout
from rcjax.model.config import ModelConfig
from rcjax.model.decoder import Batch, abstract_params, causal_batch, extend, forward, unembed
from rcjax.model.kv import empty_pages, kv_format
from rcjax.model.rope import rope_of, turned, turned_back

CONFIG = ModelConfig(
    num_layers=2, d_model=16, num_heads=4, num_kv_heads=2, head_dim=8, d_ff=24, vocab_size=20, rope_theta=1e4,
    norm_eps=1e-5, max_len=64,
)  # fmt: skip
ROPE = rope_of(CONFIG)
PAGE_TOKENS = 4
INSTRUCTION = np.array([3, 1, 4, 1, 5], np.int32)
TASK = np.array([9, 2, 6], np.int32)
FIELDS = InstanceFields(lambda ids: f" {chr(ids[0] + ord('a'))}" if ids[0] < 15 else " 7")


@pytest.fixture(scope="module")
def params():
    """Weights large enough for attention to be far from uniform."""
    rng = np.random.default_rng(1)
    leaves, tree = jax.tree.flatten(abstract_params(CONFIG))
    return jax.tree.unflatten(tree, [jnp.asarray(0.3 * rng.standard_normal(leaf.shape, np.float32)) for leaf in leaves])


def pool_of(params, history: np.ndarray) -> SemanticPool:
    def exact_kv(ids):
        batch = causal_batch(jnp.asarray(np.concatenate([INSTRUCTION, ids])[None]))
        _, fresh = extend(params, CONFIG, batch, empty_pages(kv_format(CONFIG, "float32", 1), 1), REFERENCE)
        k, v = (np.asarray(kv[:, 0, len(INSTRUCTION) :]) for kv in (fresh.k, fresh.v))
        return turned_back(k, len(INSTRUCTION) + np.arange(len(ids)), ROPE), v

    embedding = TokenEmbedding.of(np.asarray(params["embed"]), max_position=CONFIG.max_len, num_dims=16)
    return SemanticPool.build([history], exact_kv, embedding, FIELDS, instruction_key=b"", start=len(INSTRUCTION))


def logits_from_pool(params, pool: SemanticPool, history: np.ndarray) -> np.ndarray:
    """Logits of the task: instruction, what the pool does not give, and the task fresh, the rest from its pages."""
    match = pool.lookup(history, min_similarity=0.999)
    lent = pool.pages(match, PAGE_TOKENS)
    slots = lent.num_pages * PAGE_TOKENS
    at_home = turned(lent.k.reshape(len(lent.k), -1, *lent.k.shape[3:]), len(INSTRUCTION) + np.arange(slots), ROPE)
    k, v = at_home.reshape(lent.k.shape), lent.v
    null = np.zeros_like(k[:, :1])
    pages = KVPages(*(jnp.asarray(np.concatenate([null, some], axis=1)) for some in (k, v)))
    first = np.arange(k.shape[1]) * PAGE_TOKENS
    drop = np.zeros((1, k.shape[1], PAGE_TOKENS), bool)
    drop.reshape(-1)[match.fresh_offsets] = True
    layout = PageLayout(
        1 + np.arange(k.shape[1])[None],
        len(INSTRUCTION) + first[None],
        np.minimum(len(history) - first, PAGE_TOKENS)[None],
        np.zeros((1, k.shape[1]), np.int32),
        drop,
    )
    prompt = np.concatenate([INSTRUCTION, history, TASK])
    is_fresh = np.ones(len(prompt), bool)
    is_fresh[len(INSTRUCTION) :][: len(history)] = ~match.taken
    pos = np.flatnonzero(is_fresh)[None].astype(np.int32)
    read = np.arange(pos.shape[1] - len(TASK), pos.shape[1])[None].astype(np.int32)
    batch = Batch(prompt[pos], TokenLayout(pos, np.zeros_like(pos), np.zeros_like(pos)), layout, read)
    hidden, _ = extend(params, CONFIG, jax.tree.map(jnp.asarray, batch), pages, REFERENCE)
    return np.asarray(unembed(params, hidden))[0]


def test_a_known_history_ranks_as_if_computed(params):
    history = np.array([0, 7, 16, 2, 2, 13, 17, 8, 5, 10], np.int32)
    prompt = jnp.asarray(np.concatenate([INSTRUCTION, history, TASK])[None])
    expected = np.asarray(forward(params, CONFIG, prompt))[0, -len(TASK) :]
    found = logits_from_pool(params, pool_of(params, history), history)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_another_users_number_is_never_read(params):
    """A word with a digit has no prototype, and its slot stays zero."""
    known = np.array([0, 7, 16, 2], np.int32)
    asked = np.array([0, 7, 17, 2], np.int32)
    pool = pool_of(params, known)
    assert set(pool.prototypes.token_ids.tolist()) == {0, 2, 7}
    match = pool.lookup(asked, min_similarity=0.7)
    assert match.fresh_offsets.tolist() == [2]
    lent = pool.pages(match, PAGE_TOKENS)
    assert not lent.k[:, 0, 2].any()
    assert not lent.v[:, 0, 2].any()

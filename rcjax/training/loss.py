"""From one training pass to candidates' scores, and from these to the loss."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rcjax.kernels.arrays import AnyArray
from rcjax.kernels.kv import KVPages
from rcjax.kernels.selective_attention import DENSE
from rcjax.model.config import ModelConfig
from rcjax.model.decoder import Params, extend, unembed
from rcjax.model.kv import FreshKV, empty_pages, kv_format
from rcjax.prompt import Scoring
from rcjax.training.collation import PAGE_TOKENS, TrainBatch

_NO_CANDIDATE = -1e30  # finite: a share of 0 times its logarithm is 0
_TINY = 1e-30


def candidate_scores(
    params: Params, config: ModelConfig, batch: TrainBatch, vocab_ids: Int[Array, "W"], scoring: Scoring
) -> Float[Array, "B candidates"]:
    """Each candidate's score before normalisation, as `rcjax.model.scoring.Scorer` reads it; float32.

    Works for up to W - 2 candidates a request; `label` returns a column for every label.
    """
    pages = empty_pages(kv_format(config, params["embed"].dtype.name, PAGE_TOKENS), 1)
    for blocks in (batch.instruction, batch.build):
        _, fresh = extend(params, config, blocks, pages, DENSE)
        pages = _with_pages(pages, fresh)
    hidden, _ = extend(params, config, batch.rank, pages, DENSE)
    logits = unembed(params, hidden, vocab_ids)  # [B, R, W]
    return logits[..., -2] - logits[..., -1] if scoring is Scoring.ANCHOR else logits[:, 0, :-2]


def _with_pages(pages: KVPages, fresh: FreshKV) -> KVPages:
    """The pool with a pass's rows appended; a row is a whole number of pages."""

    def append(pool: AnyArray, rows: Array) -> Array:
        return jnp.concatenate([pool, rows.reshape(rows.shape[0], -1, *pool.shape[2:])], axis=1)

    return KVPages(append(pages.k, fresh.k), append(pages.v, fresh.v))


def listwise_loss(
    scores: Float[Array, "B C"], target_shares: Float[Array, "B C"], is_candidate: Bool[Array, "B C"]
) -> Float[Array, ""]:
    """Mean cross entropy of softmax(scores) against the targets: Cao et al., "ListNet", ICML 2007."""
    scores = jnp.where(is_candidate, scores, _NO_CANDIDATE)
    return -(target_shares * jax.nn.log_softmax(scores, axis=-1)).sum(axis=1).mean()


def divergence_loss(
    scores: Float[Array, "B C"], target_shares: Float[Array, "B C"], is_candidate: Bool[Array, "B C"]
) -> Float[Array, ""]:
    """Mean KL(p || softmax(scores)) in nats, p the targets: `listwise_loss` less what no scores could take from it.

    Hinton et al., "Distilling the knowledge in a neural network", arXiv 1503.02531, at temperature 1.
    """
    entropy = -jnp.where(target_shares > 0, target_shares * jnp.log(jnp.maximum(target_shares, _TINY)), 0).sum(axis=1)
    return listwise_loss(scores, target_shares, is_candidate) - entropy.mean()


def ranknet_loss(
    scores: Float[Array, "B C"], target_shares: Float[Array, "B C"], is_candidate: Bool[Array, "B C"]
) -> Float[Array, ""]:
    """Mean of log(1 + exp(s_j - s_i)) over choices i and other candidates j: Burges et al., "RankNet", ICML 2005."""
    over = jax.nn.softplus(scores[:, None, :] - scores[:, :, None])  # [b, i, j]
    is_pair = is_candidate[:, None, :] & ~jnp.eye(scores.shape[1], dtype=bool)
    total = jnp.einsum("bi,bij->b", target_shares, jnp.where(is_pair, over, 0))
    return (total / (is_candidate.sum(axis=1) - 1)).mean()

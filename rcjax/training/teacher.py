"""The teacher: a checkpoint under full causal attention, and what it says of requests."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from rcjax.model.config import ModelConfig
from rcjax.model.decoder import Params
from rcjax.model.scoring import Scorer
from rcjax.model.sharding import param_shardings
from rcjax.prompt import Layout, PromptBuilder, Scoring
from rcjax.training.collation import Collator, TrainBatch
from rcjax.training.devices import TrainDevices
from rcjax.training.examples import Example
from rcjax.training.loss import candidate_scores


class Teacher:
    """A model that ranks with the prompt that it was trained for, in the `sequential` layout, recomputed in full.

    Its weights are held in `dtype`, spread over the devices as a trainee's are.
    """

    def __init__(
        self,
        params: Params,
        config: ModelConfig,
        builder: PromptBuilder,
        scoring: Scoring,
        dtype: DTypeLike,
        devices: TrainDevices,
    ):
        self._devices = devices
        self._collator = Collator(builder, Layout.SEQUENTIAL, scoring)
        placed = partial(jax.tree.map, lambda x, to: jax.device_put(jnp.asarray(x, dtype), to))
        self._params = placed(params, param_shardings(config, devices.mesh))
        vocab_ids = Scorer.of(builder).vocab_ids

        def score(params: Params, batch: TrainBatch) -> Array:
            return candidate_scores(params, config, batch, jnp.asarray(vocab_ids), scoring)

        self._score = jax.jit(score)

    def scores(
        self, examples: Sequence[Example], orders: Sequence[Int[np.ndarray, "..."]]
    ) -> list[Float[np.ndarray, "..."]]:
        """Each example's scores in its own order of candidates, read from a prompt that has them in `orders`."""
        shown = [example.in_order(order.tolist()) for example, order in zip(examples, orders, strict=True)]
        rows = np.asarray(self._score(self._params, self._devices.split(self._collator(shown))))
        return [row[: len(order)][np.argsort(order)] for row, order in zip(rows, orders, strict=True)]


def shares_of(scores: Float[np.ndarray, "K C"]) -> Float[np.ndarray, "C"]:
    """The distribution over the candidates: the mean, over K orders, of the softmax of the scores."""
    below_top = np.exp(scores.astype(np.float64) - scores.max(axis=1, keepdims=True))
    shares: np.ndarray = (below_top / below_top.sum(axis=1, keepdims=True)).mean(axis=0)
    return shares

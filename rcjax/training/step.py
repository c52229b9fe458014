"""One step of the optimizer: which parameters change, and the compiled program that changes them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding
from jaxtyping import Array, Float

from rcjax.config import TrainSettings
from rcjax.model.config import ModelConfig
from rcjax.model.decoder import Params
from rcjax.model.scoring import Scorer
from rcjax.model.sharding import param_shardings
from rcjax.prompt import PromptBuilder
from rcjax.training.collation import TrainBatch
from rcjax.training.devices import TrainDevices
from rcjax.training.lora import init_lora, merge_lora
from rcjax.training.loss import candidate_scores, divergence_loss, listwise_loss, ranknet_loss

Loss = Callable[[Array, Array, Array], Array]
_LOSSES: dict[str, Loss] = {"listwise": listwise_loss, "ranknet": ranknet_loss}


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True)
class TrainState:
    """What changes from step to step: the trained parameters (adapters with LoRA) and the optimizer's state."""

    trained: Params
    optimizer: Any


class Trainee:
    """A model in training: programs that score and that take a step, and with LoRA the weights that stay as they are.

    Without LoRA no weights are kept here: all there is of them is in the `TrainState`. Float32 master weights; with
    `dtype: bfloat16` the passes run in bfloat16.
    """

    def __init__(
        self,
        params: Params,
        config: ModelConfig,
        builder: PromptBuilder,
        settings: TrainSettings,
        devices: Sequence[jax.Device],
    ):
        self.config = config
        self._settings = settings
        self._devices = TrainDevices(devices, settings.tensor_parallel)
        self._vocab_ids = Scorer.of(builder).vocab_ids
        self._shardings = param_shardings(config, self._devices.mesh)
        self._loss = divergence_loss if settings.teacher else _LOSSES[settings.loss]
        self._frozen = self._placed(params) if settings.lora else {}
        self._optimizer = new_optimizer(settings)
        replicated = self._devices.replicated
        self._placement = self._state_placement(params, replicated)
        # Without it the compiler places the new state as it likes, and the next step is compiled again for that.
        placements = (self._placement, replicated)
        self._step = jax.jit(self._take_step, donate_argnames="state", out_shardings=placements)
        self._scores = jax.jit(self._score)

    def initial_state(self, params: Params) -> TrainState:
        """The state that training starts from: a copy of `params`, or with LoRA new adapters of them."""
        trained = jax.device_put(self._initial_parameters(params), self._placement.trained)
        return TrainState(trained, jax.jit(self._optimizer.init, out_shardings=self._placement.optimizer)(trained))

    def step(self, state: TrainState, batch: TrainBatch) -> tuple[TrainState, Float[Array, ""]]:
        """The state after one pass, and the loss before it; donates `state`."""
        return self._step(state, self._frozen, self._devices.split(batch))

    def scores(self, state: TrainState, batch: TrainBatch) -> Float[np.ndarray, "B candidates"]:
        return np.asarray(self._scores(state.trained, self._frozen, self._devices.split(batch)))

    def params(self, state: TrainState) -> Params:
        """The whole model's weights as trained so far, adapters merged."""
        return self._merged(state.trained, self._frozen)

    def _initial_parameters(self, params: Params) -> Params:
        lora = self._settings.lora
        if lora is None:
            return self._placed(params)
        return init_lora(params, lora.rank, jax.random.key(self._settings.seed))

    def _state_placement(self, params: Params, replicated: NamedSharding) -> TrainState:
        """The state's shardings: weights and their moments as `param_shardings` says, all else on every device."""
        lora = self._settings.lora
        if lora is None:
            shapes, trained = jax.eval_shape(_in_float32, params), self._shardings
        else:
            shapes = jax.eval_shape(self._initial_parameters, params)
            trained = jax.tree.map(lambda _: replicated, shapes)
        optimizer = optax.tree_utils.tree_map_params(
            self._optimizer,
            lambda _, sharding: sharding,
            jax.eval_shape(self._optimizer.init, shapes),
            trained,
            transform_non_params=lambda _: replicated,
        )
        return TrainState(trained, optimizer)

    def _merged(self, trained: Params, frozen: Params) -> Params:
        lora = self._settings.lora
        return trained if lora is None else merge_lora(frozen, trained, lora.alpha)

    def _score(self, trained: Params, frozen: Params, batch: TrainBatch) -> Array:
        dtype = jnp.dtype(self._settings.dtype)
        params = jax.tree.map(lambda x: x.astype(dtype), self._merged(trained, frozen))
        vocab_ids = jnp.asarray(self._vocab_ids)
        return candidate_scores(params, self.config, batch, vocab_ids, self._settings.scoring)

    def _take_step(self, state: TrainState, frozen: Params, batch: TrainBatch) -> tuple[TrainState, Array]:
        def loss_of(trained: Params) -> Array:
            targets, is_candidate = jnp.asarray(batch.target_shares), jnp.asarray(batch.is_candidate)
            scores = self._score(trained, frozen, batch)[:, : targets.shape[1]]
            return self._loss(scores, targets, is_candidate)

        loss, gradient = jax.value_and_grad(loss_of)(state.trained)
        updates, optimizer = self._optimizer.update(gradient, state.optimizer, state.trained)
        return TrainState(optax.apply_updates(state.trained, updates), optimizer), loss

    def _placed(self, params: Params) -> Params:
        """A copy in float32, spread over the mesh. Never the same buffers: a step donates its state."""
        # `device_put(may_alias=False)` shares the first device's buffers where a mesh has several.
        return jax.tree.map(lambda x, to: jax.device_put(jnp.array(x, jnp.float32), to), params, self._shardings)


def _in_float32(params: Params) -> Params:
    return jax.tree.map(lambda x: x.astype(jnp.float32), params)


def learning_rate_schedule(settings: TrainSettings) -> optax.Schedule:
    """The learning rate of each step, counted from 0: a warm-up, then a cosine to a tenth."""
    return optax.warmup_cosine_decay_schedule(
        0.0,
        settings.learning_rate,
        settings.warmup_steps,
        max(settings.num_steps, settings.warmup_steps + 1),
        settings.learning_rate / 10,
    )


def new_optimizer(settings: TrainSettings) -> optax.GradientTransformation:
    """AdamW; the norms' weights are not decayed."""
    schedule = learning_rate_schedule(settings)
    adamw = optax.adamw(schedule, b2=0.98, weight_decay=settings.weight_decay, mask=_is_decayed)
    chain = optax.chain(optax.clip_by_global_norm(settings.max_grad_norm), adamw)
    if settings.accumulate == 1:
        return chain  # of one pass there is nothing to keep: MultiSteps would hold a copy of the gradient
    return optax.MultiSteps(chain, settings.accumulate).gradient_transformation()


def _is_decayed(trained: Params) -> Params:
    return jax.tree_util.tree_map_with_path(lambda path, _: "norm" not in jax.tree_util.keystr(path), trained)

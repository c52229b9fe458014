"""`rcjax train`: from settings and data to a model folder, with progress for a person to watch."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from rcjax.catalog import Catalogue, EmbeddedWorld
from rcjax.catalog.holdout import DEFAULT_SHARES, split_users
from rcjax.catalog.negatives import NegativeSampler
from rcjax.catalog.related import RelatedItems
from rcjax.config import Settings
from rcjax.deployment import read_catalogue
from rcjax.model.config import ModelConfig
from rcjax.model.decoder import Params, init_params
from rcjax.model.export import export_folder
from rcjax.model.spec import Model, load_model
from rcjax.prompt import PromptBuilder
from rcjax.template import load_template
from rcjax.training.collation import Collator
from rcjax.training.examples import EmbeddedExamples, ExampleSource, PairExamples
from rcjax.training.settings import NewModel, TrainSettings
from rcjax.training.shoppers import ShopperExamples
from rcjax.training.step import Trainee
from rcjax.training.trainer import CURVE, Trainer

MODEL_FOLDER = "model"
# Twice the usual weights: at d_model 256, a token's logit for its like is then about 3 above that for another.
_LIKENESS = 2.0
# Root mean square of embeddings taken over: 100 times the learning rate, so that steps do not wipe them out at once.
_EMBEDDING_SIZE = 0.1


def run_training(console: Console, settings: Settings, train: TrainSettings, folder: Path) -> Path:
    """Trains and exports; returns the folder of the model, which `rcjax serve` and `transformers` load."""
    model = load_model(settings.model, dtype=jnp.float32)
    builder = PromptBuilder(load_template(settings.template), model.tokenizer, train.num_candidates)
    config, params = _start(model, train)
    source, validation = example_sources(settings, train)
    examples = validation.draw(np.random.default_rng((train.seed, 1)), train.num_validation)
    trainee = Trainee(params, config, builder, train, jax.devices())
    collator = Collator(builder, train.layout, train.scoring)
    identity = _identity(settings, train, model)
    trainer = Trainer(trainee, collator, source, examples, train, folder, identity)
    columns = ("training", BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[state]}"))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task("training", total=trainer.num_passes, state="")
        state = trainer.run(
            lambda number, loss, ndcg: bar.update(task, completed=number, state=f"loss {loss:.3f}, NDCG@10 {ndcg:.3f}")
        )
    exported = folder / MODEL_FOLDER
    export_folder(exported, config, trainee.params(state), model.tokenizer)
    console.print(f"{exported}: the model; {folder / CURVE}: its training curve", markup=False, highlight=False)
    return exported


def example_sources(settings: Settings, train: TrainSettings) -> tuple[ExampleSource, ExampleSource]:
    """Where training and validation examples come from: different users, by a hash of their ids."""
    if settings.catalogue.format == "embedded":
        world = EmbeddedWorld(settings.catalogue.seed)
        own = EmbeddedExamples(
            world,
            "train",
            train.num_candidates,
            requests_per_user=train.requests_per_user,
            choices_per_request=train.choices_per_request,
            pool=train.negative_pool,
        )
        return own, EmbeddedExamples(world, "validation", train.num_candidates)
    if train.examples == "events" and train.choices_per_request > 1:
        raise ValueError(f"{train.choices_per_request=}: only users of the embedded shop can be asked more than once")
    catalogue = read_catalogue(settings.catalogue)
    splits = split_users(catalogue, DEFAULT_SHARES, settings.catalogue.seed)
    sampler = NegativeSampler(splits["train"], train.negatives)
    pairs = [
        PairExamples(
            catalogue,
            list(splits[name].users.values()),
            sampler,
            num_candidates=train.num_candidates,
            max_events=train.max_events,
            requests_per_user=train.requests_per_user if name == "train" else 1,
            pool=train.negative_pool if name == "train" else None,
        )
        for name in ("train", "validation")
    ]
    if train.examples == "catalogue":
        return _shoppers(catalogue, sampler, train), pairs[1]
    return pairs[0], pairs[1]


def _shoppers(catalogue: Catalogue, sampler: NegativeSampler, train: TrainSettings) -> ShopperExamples:
    if train.negative_pool is None:
        raise ValueError("examples: catalogue needs negative_pool")
    return ShopperExamples(
        catalogue.items,
        RelatedItems(catalogue.items, sampler),
        sampler,
        train.num_candidates,
        train.choices_per_request,
        train.negative_pool,
    )


def _identity(settings: Settings, train: TrainSettings, model: Model) -> str:
    """All that decides what a run learns."""
    catalogue = settings.catalogue.model_dump(mode="json")
    return json.dumps(
        {
            "model": model.fingerprint,
            "template": settings.template,
            "catalogue": catalogue,
            "train": train.model_dump(),
        },
        indent=1,
    )


def _start(model: Model, train: TrainSettings) -> tuple[ModelConfig, Params]:
    """The model that training starts from: the checkpoint, its first layers, or random weights."""
    if train.new_model is not None:
        config = _new_config(model.config, train.new_model)
        params = init_params(config, jax.random.key(train.seed))
        if train.new_model.embeddings == "checkpoint":
            params["embed"] = _projected(model.params["embed"], config.d_model)
            params["layers"] |= _mimetic(params["layers"])
        return config, params
    if train.num_layers is None:
        return model.config, model.params
    if train.num_layers > model.config.num_layers:
        raise ValueError(f"{train.num_layers=} exceeds the checkpoint's num_layers={model.config.num_layers}")
    layers = {name: stacked[: train.num_layers] for name, stacked in model.params["layers"].items()}
    return replace(model.config, num_layers=train.num_layers), {**model.params, "layers": layers}


def _mimetic(layers: Params) -> Params:
    """Attention that at first looks for tokens like the one that asks, and brings back what they are.

    Query and key projections are equal, and the output projection is the value projection's transpose. Source:
    Trockman and Kolter, "Mimetic Initialization of Self-Attention Layers", ICML 2023. Without it, a ranker first
    has to find out that comparing pays, in which it may not succeed.
    """
    query, key, value = layers["q_proj"], layers["k_proj"], layers["v_proj"]  # [layers, d_model, heads, head_dim]
    group = query.shape[2] // key.shape[2]
    shared = _LIKENESS * query[:, :, ::group]
    output = jnp.repeat(value, group, axis=2).transpose(0, 2, 3, 1)
    return {"q_proj": jnp.repeat(shared, group, axis=2), "k_proj": shared, "o_proj": output}


def _projected(embed: Float[Array, "V D"], d_model: int) -> Float[Array, "V d"]:
    """The embeddings on their first `d_model` principal directions."""
    if d_model > embed.shape[1]:
        raise ValueError(f"{d_model=} exceeds the {embed.shape[1]} of the checkpoint's embeddings")
    _, directions = jnp.linalg.eigh(embed.T @ embed)
    projected = embed @ directions[:, -d_model:]
    return projected * (_EMBEDDING_SIZE / jnp.sqrt(jnp.mean(projected**2)))


def _new_config(config: ModelConfig, new: NewModel) -> ModelConfig:
    if new.d_model % new.num_heads:
        raise ValueError(f"{new.d_model=} must be a multiple of {new.num_heads=}")
    return replace(
        config,
        num_layers=new.num_layers,
        d_model=new.d_model,
        num_heads=new.num_heads,
        num_kv_heads=new.num_kv_heads,
        head_dim=new.d_model // new.num_heads,
        d_ff=new.d_ff,
        tied_embeddings=True,
        qkv_bias=False,
        qk_norm=False,
    )

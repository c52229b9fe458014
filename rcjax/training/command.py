"""`rcjax train`: from settings and data to a model folder, with progress for a person to watch."""

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from rcjax.catalog import EmbeddedWorld
from rcjax.catalog.holdout import DEFAULT_SHARES, split_users
from rcjax.catalog.negatives import NegativeSampler
from rcjax.config import NewModel, Settings, TrainSettings, read_catalogue
from rcjax.disk import make_folder
from rcjax.model.config import ModelConfig
from rcjax.model.decoder import Params, init_params
from rcjax.model.export import export_folder
from rcjax.model.spec import Model, load_model
from rcjax.prompt import PromptBuilder
from rcjax.prompt.template import load_template
from rcjax.serving.progress import noted
from rcjax.training.adapter_folder import adapter_folder
from rcjax.training.collation import Collator
from rcjax.training.curve import CURVE
from rcjax.training.examples import EmbeddedExamples, ExampleSource, PairExamples
from rcjax.training.step import Trainee
from rcjax.training.trainer import Trainer

logger = logging.getLogger(__name__)
MODEL_FOLDER, ADAPTER_FOLDER = "model", "adapter"


def run_training(console: Console, settings: Settings, train: TrainSettings, folder: Path) -> Path:
    """Trains and exports; returns the folder of the model, which `rcjax serve` and `transformers` load."""
    make_folder(folder)  # before what takes long
    model = load_model(settings.model, dtype=jnp.float32, adapter=settings.adapter)
    tokenizer = model.tokenizer
    builder = PromptBuilder(load_template(settings.template), tokenizer, train.num_candidates)
    identity = _identity(settings, train, model, builder)
    adapter = adapter_folder(settings, train, model, builder.template)
    if model.adapter is not None:
        asked = {(train.layout, train.scoring)}
        for line in model.adapter.mismatches(builder.template, asked, model.base_fingerprint):
            logger.warning(line)
    config, params = _start(model, train)
    source, validation = example_sources(settings, train, noted(console))
    examples = validation.draw(np.random.default_rng((train.seed, 1)), train.num_validation)
    trainee = Trainee(params, config, builder, train, jax.devices())
    collator = Collator(builder, train.layout, train.scoring)
    trainer = Trainer(trainee, collator, source, examples, train, folder, identity)
    state = trainee.initial_state(params)
    del model, params  # the state and the trainee have what they need of them
    columns = ("training", BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[state]}"))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task("training", total=trainer.num_passes, state="")
        state = trainer.run(
            state,
            lambda number, loss, ndcg: bar.update(task, completed=number, state=f"loss {loss:.3f}, NDCG@10 {ndcg:.3f}"),
        )
    exported = folder / MODEL_FOLDER
    export_folder(exported, config, trainee.params(state), tokenizer)
    console.print(f"{exported}: the model; {folder / CURVE}: its training curve", markup=False, highlight=False)
    if adapter is not None:
        adapter.write(folder / ADAPTER_FOLDER, state.trained)
        console.print(f"{folder / ADAPTER_FOLDER}: the adapter alone", markup=False, highlight=False)
    return exported


def example_sources(
    settings: Settings, train: TrainSettings, tell: Callable[[str], None] = logger.warning
) -> tuple[ExampleSource, ExampleSource]:
    """Where training and validation examples come from: different users, by a hash of their ids.

    `tell` gets a line for each thing that had to be left out.
    """
    if settings.catalogue.format == "embedded":
        if train.recall_share:
            raise ValueError(f"{train.recall_share=}: the embedded shop's users choose for themselves; set it to 0")
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
    catalogue = read_catalogue(settings.catalogue, tell=tell)
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
            choices_per_request=train.choices_per_request if name == "train" else 1,
            recall_share=train.recall_share if name == "train" else 0.0,
            pool=train.negative_pool if name == "train" else None,
        )
        for name in ("train", "validation")
    ]
    return pairs[0], pairs[1]


def _identity(settings: Settings, train: TrainSettings, model: Model, builder: PromptBuilder) -> str:
    """What decides what a run learns, but for the catalogue's files: they may be moved between two calls."""
    catalogue = settings.catalogue.model_dump(mode="json", exclude={"paths", "on_error"})
    return json.dumps(
        {
            "model": model.fingerprint,
            "template": builder.template.identity,
            "catalogue": catalogue,
            "train": train.model_dump(),
        },
        indent=1,
    )


def _start(model: Model, train: TrainSettings) -> tuple[ModelConfig, Params]:
    """The model that training starts from: the checkpoint, its first layers, or random weights."""
    if train.new_model is not None:
        config = _new_config(model.config, train.new_model)
        return config, init_params(config, jax.random.key(train.seed))
    if train.num_layers is None:
        return model.config, model.params
    if train.num_layers > model.config.num_layers:
        raise ValueError(f"{train.num_layers=} exceeds the checkpoint's num_layers={model.config.num_layers}")
    layers = {name: stacked[: train.num_layers] for name, stacked in model.params["layers"].items()}
    return replace(model.config, num_layers=train.num_layers), {**model.params, "layers": layers}


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

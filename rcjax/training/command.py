"""`rcjax train`: from settings and data to a model folder, with progress for a person to watch."""

import json
import logging
from collections.abc import Callable
from contextlib import closing
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
from rcjax.evaluation.event_file import check_events
from rcjax.model.config import ModelConfig
from rcjax.model.decoder import Params, init_params
from rcjax.model.export import export_folder
from rcjax.model.spec import Model, load_model
from rcjax.prompt import PromptBuilder
from rcjax.prompt.template import load_template
from rcjax.serving.progress import noted
from rcjax.training.collation import Collator
from rcjax.training.curve import CURVE
from rcjax.training.examples import EmbeddedExamples, ExampleSource, PairExamples
from rcjax.training.pass_events import PassEvents
from rcjax.training.step import Trainee, TrainState
from rcjax.training.trainer import Trainer

logger = logging.getLogger(__name__)
MODEL_FOLDER = "model"


def run_training(
    console: Console, settings: Settings, train: TrainSettings, folder: Path, event_folder: Path | None = None
) -> Path:
    """Trains and exports; returns the folder of the model, which `rcjax serve` and `transformers` load.

    What it measures goes to `event_folder` too, for TensorBoard.
    """
    if event_folder is not None:
        check_events(event_folder)
    make_folder(folder)  # before what takes long
    model = load_model(settings.model, dtype=jnp.float32)
    tokenizer = model.tokenizer
    builder = PromptBuilder(load_template(settings.template), tokenizer, train.num_candidates)
    identity = _identity(settings, train, model, builder)
    config, params = _start(model, train)
    source, validation = example_sources(settings, train, noted(console))
    examples = validation.draw(np.random.default_rng((train.seed, 1)), train.num_validation)
    trainee = Trainee(params, config, builder, train, jax.devices())
    collator = Collator(builder, train.layout, train.scoring)
    trainer = Trainer(trainee, collator, source, examples, train, folder, identity)
    state = trainee.initial_state(params)
    del model, params  # the state and the trainee have what they need of them
    state = _train(console, trainer, state, PassEvents(event_folder, train))
    exported = folder / MODEL_FOLDER
    export_folder(exported, config, trainee.params(state), tokenizer)
    console.print(f"{exported}: the model; {folder / CURVE}: its training curve", markup=False, highlight=False)
    return exported


def _train(console: Console, trainer: Trainer, state: TrainState, events: PassEvents) -> TrainState:
    columns = ("training", BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[state]}"))
    with (
        closing(events),
        Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as bar,
    ):
        task = bar.add_task("training", total=trainer.num_passes, state="")

        def on_pass(number: int, loss: float, ndcg: float) -> None:
            bar.update(task, completed=number, state=f"loss {loss:.3f}, NDCG@10 {ndcg:.3f}")
            events.passed(number, loss)

        return trainer.run(state, on_pass, events.validated)


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
    if not settings.catalogue.columns.named:
        del catalogue["columns"]  # runs from before there were any go on
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

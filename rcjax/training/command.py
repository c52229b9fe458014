"""`rcjax train`: from settings and data to a model folder, with progress for a person to watch."""

import json
import logging
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from rcjax.config import NewModel, Settings, TrainSettings
from rcjax.disk import make_folder
from rcjax.evaluation.event_file import check_events
from rcjax.model.config import ModelConfig
from rcjax.model.decoder import Params, init_params
from rcjax.model.export import export_folder
from rcjax.model.selection import parse_policy
from rcjax.model.spec import Model, load_model
from rcjax.prompt import Layout, PromptBuilder
from rcjax.prompt.template import load_template
from rcjax.serving.progress import noted
from rcjax.training.adapter_folder import adapter_folder
from rcjax.training.collation import Collator
from rcjax.training.curve import CURVE
from rcjax.training.distillation import distilled_sources, teacher_template
from rcjax.training.pass_events import PassEvents
from rcjax.training.sources import sources_of
from rcjax.training.step import Trainee, TrainState
from rcjax.training.trainer import Trainer
from rcjax.training.validation import Validation

logger = logging.getLogger(__name__)
MODEL_FOLDER, ADAPTER_FOLDER = "model", "adapter"


def run_training(
    console: Console, settings: Settings, train: TrainSettings, folder: Path, event_folder: Path | None = None
) -> Path:
    """Trains and exports; returns the folder of the model, which `rcjax serve` and `transformers` load.

    What it measures goes to `event_folder` too, for TensorBoard.
    """
    if event_folder is not None:
        check_events(event_folder)
    make_folder(folder)  # before what takes long
    model = load_model(settings.model, dtype=jnp.float32, adapter=settings.adapter)
    tokenizer = model.tokenizer
    builder = PromptBuilder(load_template(settings.template), tokenizer, train.num_candidates)
    identity = _identity(settings, train, model, builder)
    adapter = adapter_folder(settings, train, model, builder.template)
    _warn_of_adapter(settings, train, model, builder)
    sources = sources_of(settings, train, noted(console))
    if train.teacher is not None:
        sources = distilled_sources(console, settings, train, model, sources, folder, noted(console))
    config, params = _start(model, train)
    trainee = Trainee(params, config, builder, train, jax.devices())
    selection = None if train.selection is None else parse_policy(train.selection)
    collator = Collator(builder, train.layout, train.scoring, selection)
    trainer = Trainer(trainee, collator, sources.train, sources.validation, train, folder, identity)
    state = trainee.initial_state(params)
    del model, params  # the state and the trainee have what they need of them
    state = _train(console, trainer, state, PassEvents(event_folder, train))
    exported = folder / MODEL_FOLDER
    export_folder(exported, config, trainee.params(state), tokenizer)
    console.print(f"{exported}: the model; {folder / CURVE}: its training curve", markup=False, highlight=False)
    if adapter is not None:
        adapter.write(folder / ADAPTER_FOLDER, state.trained)
        console.print(f"{folder / ADAPTER_FOLDER}: the adapter alone", markup=False, highlight=False)
    return exported


def _train(console: Console, trainer: Trainer, state: TrainState, events: PassEvents) -> TrainState:
    columns = ("training", BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[state]}"))
    with (
        closing(events),
        Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as bar,
    ):
        task = bar.add_task("training", total=trainer.num_passes, state="")

        def on_pass(number: int, loss: float, last: Validation) -> None:
            bar.update(task, completed=number, state=f"loss {loss:.3f}; {last}")
            events.passed(number, loss)

        return trainer.run(state, on_pass, events.validated)


def _warn_of_adapter(settings: Settings, train: TrainSettings, model: Model, builder: PromptBuilder) -> None:
    """Where what training starts from is an adapter that was trained for another prompt or catalogue than these."""
    if model.adapter is None:
        return
    if note := settings.other_shop_note:
        logger.warning(note)
    template, asked = builder.template, (train.layout, train.scoring)
    if train.teacher is not None:
        template, asked = teacher_template(settings, train.teacher), (Layout.SEQUENTIAL, train.teacher.scoring)
    for line in model.adapter.mismatches(template, {asked}, model.base_fingerprint):
        logger.warning(line)


def _identity(settings: Settings, train: TrainSettings, model: Model, builder: PromptBuilder) -> str:
    """What decides what a run learns, but for the files of data: they may be moved between two calls."""
    catalogue = settings.catalogue.model_dump(mode="json", exclude={"paths", "on_error"})
    if not settings.catalogue.columns.named:
        del catalogue["columns"]  # runs from before there were any go on
    trained = train.model_dump(mode="json", exclude={"teacher": {"requests", "scores", "template"}, "lora": {"dtype"}})
    for new in ("selection", "teacher", "clear_histories"):
        if trained[new] is None:
            del trained[new]  # likewise
    identity: dict[str, object] = {
        "model": model.fingerprint,
        "template": builder.template.identity,
        "catalogue": catalogue,
        "train": trained,
    }
    if train.teacher is not None:
        identity["teacher_template"] = teacher_template(settings, train.teacher).identity
    return json.dumps(identity, indent=1)


def _start(model: Model, train: TrainSettings) -> tuple[ModelConfig, Params]:
    """The model that training starts from: the checkpoint, its first layers, or random weights."""
    if train.new_model is not None:
        config = _new_config(model.config, train.new_model)
        return config, init_params(config, jax.random.key(train.seed))
    if train.num_layers is None:
        return model.config, model.params
    if train.num_layers > model.config.num_layers:
        advice = "lower it" if model.adapter is None else "lower it, or set adapter: null for the whole checkpoint"
        raise ValueError(f"{train.num_layers=} exceeds the checkpoint's num_layers={model.config.num_layers}; {advice}")
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

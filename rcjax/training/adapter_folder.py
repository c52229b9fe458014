"""A run's LoRA adapters as a folder that is served on the checkpoint that the run started from."""

from dataclasses import dataclass, replace
from pathlib import Path

import jax.numpy as jnp

from rcjax.config import Settings, TrainSettings
from rcjax.model.adapter import Adapter
from rcjax.model.adapter_export import write_adapter
from rcjax.model.adapter_origin import AdapterOrigin
from rcjax.model.config import ModelConfig
from rcjax.model.decoder import Params
from rcjax.model.spec import Model
from rcjax.prompt.template import Template
from rcjax.training.lora import on_top_of


@dataclass(frozen=True, slots=True)
class AdapterFolder:
    """What is known before training of the adapter that it ends with. `below` is the one that it starts on."""

    config: ModelConfig
    alpha: float
    base: str
    origin: AdapterOrigin
    below: Adapter | None
    dtype: str

    def write(self, folder: Path, adapters: Params) -> None:
        """With what `below` changes, so that the base alone is needed beside it. `DiskError`."""
        alpha = self.alpha
        if self.below is not None:
            adapters, alpha = on_top_of(self.below, self.config, adapters, alpha)
        write_adapter(
            folder, self.config, adapters, alpha, base=self.base, origin=self.origin, dtype=jnp.dtype(self.dtype)
        )


def adapter_folder(settings: Settings, train: TrainSettings, model: Model, template: Template) -> AdapterFolder | None:
    """None without LoRA, and where training does not start from the checkpoint: nothing fits it then."""
    if train.lora is None or train.new_model is not None:
        return None
    num_layers = train.num_layers or model.config.num_layers
    config = replace(model.config, num_layers=num_layers)
    origin = AdapterOrigin.of(template, train.layout, train.scoring, model.base_fingerprint, num_layers)
    return AdapterFolder(config, train.lora.alpha, settings.model, origin, model.adapter, train.lora.dtype)

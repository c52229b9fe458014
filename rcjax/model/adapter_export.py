"""Adapters in PEFT's layout, which `load_adapter` and PEFT read."""

import json
from pathlib import Path

import jax
import numpy as np
from jax.typing import DTypeLike
from safetensors import SafetensorError
from safetensors.numpy import save_file

from rcjax.disk import replacing
from rcjax.model.adapter import STEM, factor_names
from rcjax.model.adapter_config import FILE as CONFIG_FILE
from rcjax.model.adapter_origin import FILE as ORIGIN_FILE
from rcjax.model.adapter_origin import AdapterOrigin
from rcjax.model.config import ModelConfig
from rcjax.model.decoder import Params
from rcjax.model.weights import layer_name, tensor_layouts


def write_adapter(
    folder: Path,
    config: ModelConfig,
    adapters: Params,
    alpha: float,
    *,
    base: str,
    origin: AdapterOrigin,
    dtype: DTypeLike = np.float32,
) -> None:
    """Writes adapters of projections, by name: `down` [L, in, r] and `up` [L, r, out], scaled by alpha / r.

    `base` is what PEFT shall know the base model as. `DiskError` where the folder cannot be written; what is there
    stays as it was then.
    """
    _, layouts = tensor_layouts(config)
    tensors, ranks = {}, {}
    for name, adapter in adapters.items():
        down, up = (np.asarray(jax.device_get(adapter[key])) for key in ("down", "up"))
        ranks[name] = down.shape[2]
        for layer in range(config.num_layers):
            a, b = factor_names(layer_name(layer, layouts[name].name))
            tensors[a] = np.ascontiguousarray(down[layer].T, dtype)
            tensors[b] = np.ascontiguousarray(up[layer].T, dtype)
    with replacing(folder, SafetensorError) as new:
        config_file, weights_file = new / CONFIG_FILE, new / f"{STEM}.safetensors"
        config_file.write_text(json.dumps(_peft_config(ranks, alpha, base, config.num_layers), indent=2), "utf-8")
        save_file(tensors, weights_file, metadata={"format": "pt"})
        weights_file.chmod(config_file.stat().st_mode)  # safetensors lets the owner only read it, whatever the umask
        (new / ORIGIN_FILE).write_text(origin.to_json(), "utf-8")


def _peft_config(ranks: dict[str, int], alpha: float, base: str, num_layers: int) -> dict[str, object]:
    rank = max(ranks.values())
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "rank_pattern": {name: own for name, own in ranks.items() if own != rank},
        "target_modules": list(ranks),
        "layers_to_transform": list(range(num_layers)),
        "layers_pattern": "layers",
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "use_rslora": False,
        "use_dora": False,
        "modules_to_save": None,
    }

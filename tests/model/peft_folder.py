"""LoRA adapters written by hand as PEFT writes them, and what they make of a checkpoint's weights, in plain NumPy."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
PROJECTIONS = (*ATTENTION, "gate_proj", "up_proj", "down_proj")
# What PEFT 0.21 writes besides; every one of its defaults must be taken.
DEFAULTS: dict[str, Any] = {
    "alora_invocation_tokens": None,
    "alpha_pattern": {},
    "arrow_config": None,
    "auto_mapping": None,
    "base_model_name_or_path": "some/base",
    "bias": "none",
    "corda_config": None,
    "ensure_weight_tying": False,
    "eva_config": None,
    "exclude_modules": None,
    "fan_in_fan_out": False,
    "inference_mode": True,
    "init_lora_weights": True,
    "kasa_config": None,
    "layer_replication": None,
    "layers_pattern": None,
    "layers_to_transform": None,
    "loftq_config": {},
    "lora_alpha": 6,
    "lora_bias": False,
    "lora_dropout": 0.05,
    "lora_ga_config": None,
    "megatron_config": None,
    "megatron_core": "megatron.core",
    "modules_to_save": None,
    "monteclora_config": None,
    "peft_type": "LORA",
    "peft_version": "0.21.2",
    "qalora_group_size": 16,
    "r": 3,
    "rank_pattern": {},
    "revision": None,
    "target_modules": list(PROJECTIONS),
    "target_parameters": None,
    "task_type": "CAUSAL_LM",
    "trainable_token_indices": None,
    "use_bdlora": None,
    "use_dora": False,
    "use_qalora": False,
    "use_rslora": False,
    "velora_config": None,
}


def factors(weights: Mapping[str, np.ndarray], ranks: Mapping[str, int], seed: int = 0) -> dict[str, np.ndarray]:
    """Random A and B, by PEFT's names, of the modules of `ranks`."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for module, rank in ranks.items():
        rows, columns = weights[f"{module}.weight"].shape
        for kind, shape in (("A", (rank, columns)), ("B", (rows, rank))):
            values = 0.15 * rng.standard_normal(shape)
            tensors[f"base_model.model.{module}.lora_{kind}.weight"] = values.astype(np.float32)
    return tensors


def modules(weights: Mapping[str, np.ndarray], *kinds: str) -> list[str]:
    """The modules of these kinds; of all projections where none is named."""
    stems = (name.removesuffix(".weight") for name in weights if name.endswith(".weight"))
    return [stem for stem in stems if stem.split(".")[-1] in (kinds or PROJECTIONS)]


def write_peft(folder: Path, tensors: Mapping[str, np.ndarray], **fields: Any) -> Path:
    """Writes both files into `folder`, which it makes; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(DEFAULTS | fields))
    save_file(dict(tensors), folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


def merged(
    weights: Mapping[str, np.ndarray], tensors: Mapping[str, np.ndarray], scales: Mapping[str, float]
) -> dict[str, np.ndarray]:
    """W + scale B A of each module of `scales`, summed in float64."""
    changed = dict(weights)
    for module, scale in scales.items():
        a, b = (tensors[f"base_model.model.{module}.lora_{kind}.weight"].astype(np.float64) for kind in "AB")
        changed[f"{module}.weight"] = (weights[f"{module}.weight"] + scale * (b @ a)).astype(np.float32)
    return changed

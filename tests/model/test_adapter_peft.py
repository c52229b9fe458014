"""PEFT takes what rcjax writes, and rcjax what PEFT writes: both compute the same logits."""

import json
from pathlib import Path
from typing import Any

import checkpoints
import jax
import jax.numpy as jnp
import numpy as np
import peft_folder
import pytest
from test_adapter_export import FAMILIES, written

from rcjax.model.adapter import AdaptedSource, load_adapter
from rcjax.model.decoder import forward
from rcjax.model.hf_config import config_from_hf
from rcjax.model.safetensors_folder import SafetensorsFolder
from rcjax.model.weights import load_params

# PEFT 0.21 asks transformers for what the latter has renamed.
pytestmark = [pytest.mark.live, pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")]


def logits(folder: Path, adapter: Path) -> np.ndarray:
    config = config_from_hf(json.loads((folder / "config.json").read_text()))
    source = AdaptedSource(SafetensorsFolder(folder), load_adapter(str(adapter), config))
    params = load_params(config, source, dtype=jnp.float32)
    return np.asarray(jax.jit(forward, static_argnums=1)(params, config, jnp.asarray(checkpoints.token_ids())))


def peft_logits(model: Any) -> np.ndarray:
    import torch

    with torch.no_grad():
        return model.eval()(torch.tensor(checkpoints.token_ids().astype(np.int64))).logits.numpy()


def transformers_model(folder: Path, family: str) -> Any:
    pytest.importorskip("torch", reason="the live comparison needs torch")
    pytest.importorskip("peft", reason="the live comparison needs peft")
    from transformers import AutoModelForCausalLM

    hf = checkpoints.CONFIGS[family]
    checkpoints.write_folder(folder, hf, checkpoints.tensors(hf))
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").float()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_peft_computes_the_same_of_what_is_written(tmp_path: Path, family: str, dtype: str) -> None:
    model = transformers_model(tmp_path, family)
    from peft import PeftModel

    ranks = dict.fromkeys(peft_folder.PROJECTIONS, 2) | {"v_proj": 3}
    folder = written(tmp_path / "a", family, ranks, dtype=jnp.dtype(dtype))
    theirs = peft_logits(PeftModel.from_pretrained(model, str(folder)))
    np.testing.assert_allclose(logits(tmp_path, folder), theirs, rtol=0, atol=5e-4)


PEFT_CONFIGS: dict[str, dict[str, Any]] = {
    "two kinds": {"target_modules": ["q_proj", "v_proj"], "r": 4, "lora_alpha": 8},
    "all-linear": {"target_modules": "all-linear", "r": 3, "use_rslora": True},
    "expression": {"target_modules": r".*\.[02]\.(self_attn|mlp)\.[kg]\w+_proj"},
    "layers": {"target_modules": ["up_proj", "o_proj"], "layers_to_transform": [1, 2]},
    "layers of a pattern": {"target_modules": ["k_proj"], "layers_to_transform": 2, "layers_pattern": "layers"},
    "without": {"target_modules": ["q_proj", "k_proj"], "exclude_modules": r".*layers\.1\..*"},
    "patterns": {
        "target_modules": ["q_proj", "gate_proj", "down_proj"],
        "rank_pattern": {r"^model\.layers\.[01]\.self_attn\.q_proj": 5, "gate_proj": 2},
        "alpha_pattern": {r"layers\.2\.mlp\.down_proj": 3, r"mlp\.down_proj": 9},
        "use_rslora": True,
    },
    "orthogonal": {"target_modules": ["o_proj"], "r": 4, "init_lora_weights": "orthogonal"},
}


@pytest.mark.parametrize("case", PEFT_CONFIGS)
def test_what_peft_saves_is_computed_as_peft_does(tmp_path: Path, case: str) -> None:
    model = transformers_model(tmp_path, "llama3")
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    tuned = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.1, **PEFT_CONFIGS[case]))
    for name, parameter in tuned.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.15)
    tuned.save_pretrained(str(tmp_path / "a"))
    np.testing.assert_allclose(logits(tmp_path, tmp_path / "a"), peft_logits(tuned), rtol=0, atol=2e-4)

"""An adapter that is more than plain LoRA, or does not fit the base, is refused by name."""

from pathlib import Path
from typing import Any

import checkpoints
import huggingface_hub.constants
import numpy as np
import peft_folder
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from rcjax.model.adapter import AdaptedSource, load_adapter
from rcjax.model.hf_config import config_from_hf
from rcjax.model.load_error import ModelLoadError
from rcjax.model.safetensors_folder import SafetensorsFolder

HF = checkpoints.CONFIGS["llama3"]
CONFIG = config_from_hf(HF)
WEIGHTS = checkpoints.tensors(HF)
ALL = peft_folder.modules(WEIGHTS)
A_NAME = "base_model.model.model.layers.1.mlp.up_proj.lora_A.weight"


def plain(folder: Path, **fields: Any) -> Path:
    """An adapter of rank 3 on every projection of the llama3 checkpoint."""
    return peft_folder.write_peft(folder, peft_folder.factors(WEIGHTS, dict.fromkeys(ALL, 3)), **fields)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"peft_type": "LOHA"}, "peft_type='LOHA' is not supported; only 'LORA' is"),
        ({"peft_type": None}, "lacks peft_type"),
        ({"use_dora": True}, "use_dora=True is not supported"),
        ({"bias": "lora_only"}, "bias='lora_only' is not supported"),
        ({"lora_bias": True}, "lora_bias=True"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save=\['lm_head'\] is not supported"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out=True"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "layer_replication="),
        ({"trainable_token_indices": [3]}, "trainable_token_indices="),
        ({"target_parameters": ["mlp.experts"]}, "target_parameters="),
        ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens="),
        ({"use_qalora": True}, "use_qalora=True"),
        ({"of_the_future": {"depth": 2}}, "of_the_future={'depth': 2} is not supported"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights='pissa_niter_4' changes the base's weights"),
        ({"init_lora_weights": ["gaussian"]}, "init_lora_weights="),
        ({"target_modules": None}, "lacks target_modules, which must name the modules"),
        ({"target_modules": 3}, "target_modules=3 must be a list of texts"),
        ({"target_modules": ["c_attn"]}, "names no projection of this model; they are down_proj, gate_proj, k_proj"),
        ({"target_modules": "(q_proj"}, r"target_modules='\(q_proj' has '\(q_proj', which is no regular expression"),
        ({"exclude_modules": "[a"}, "exclude_modules="),
        ({"exclude_modules": "a{99999999999}"}, "exclude_modules=.* no regular expression"),
        ({"exclude_modules": "(" * 9999}, "exclude_modules=.* no regular expression"),
        ({"exclude_modules": r".*"}, "names no projection"),
        ({"rank_pattern": {"(": 2}}, "rank_pattern=.* no regular expression"),
        ({"rank_pattern": {"(?i)q_proj": 2}}, "rank_pattern=.* no regular expression"),
        ({"rank_pattern": {"q_proj": 0}}, "rank_pattern: q_proj=0 must be a whole number of at least 1"),
        ({"alpha_pattern": {"q_proj": "a"}}, "alpha_pattern: q_proj='a' must be a finite number"),
        ({"layers_to_transform": ["1"]}, "layers_to_transform="),
        ({"layers_to_transform": [1], "target_modules": ".*q_proj"}, "layers_to_transform=.* a list of target_modules"),
        ({"layers_to_transform": [1], "layers_pattern": "("}, "layers_pattern="),
        ({"r": 0}, "r=0 must be a whole number of at least 1"),
        ({"r": 4}, r"lora_A\.weight has shape \(3, 80\), rank and base say \(4, 80\)"),
        ({"lora_alpha": float("inf")}, "lora_alpha=inf must be a finite number"),
        ({"use_rslora": "yes"}, "use_rslora='yes' must be true or false"),
        (
            {"target_modules": ["q_proj"]},
            r"unexpected base_model\.model\.model\.layers\.0\.mlp\.down_proj\.lora_A\.weight",
        ),
    ],
)
def test_what_is_more_than_plain_lora_is_refused_by_name(tmp_path: Path, fields: dict[str, Any], named: str) -> None:
    folder = plain(tmp_path / "a", **fields)
    with pytest.raises(ModelLoadError, match=named) as caught:
        load_adapter(str(folder), CONFIG)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("start", [True, False, None, "gaussian", "eva", "orthogonal"])
def test_a_start_that_leaves_the_base_as_it_is(tmp_path: Path, start: object) -> None:
    assert len(load_adapter(str(plain(tmp_path / "a", init_lora_weights=start)), CONFIG).scales) == len(ALL)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda t: t.pop(A_NAME), rf"missing {A_NAME}"),
        (
            lambda t: t.update({"base_model.model.lm_head.weight": np.zeros((2, 2))}),
            "unexpected base_model.model.lm_head",
        ),
        (lambda t: t.update({A_NAME.replace("lora_A", "lora_magnitude_vector"): np.zeros(2)}), "lora_magnitude_vector"),
        (
            lambda t: t.update({A_NAME: t[A_NAME].T.copy()}),
            r"up_proj\.lora_A\.weight has shape \(48, 3\), .* \(3, 48\)",
        ),
        (lambda t: t.update({A_NAME: t[A_NAME].reshape(-1)}), r"has shape \(144,\)"),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path: Path, change: Any, named: str) -> None:
    folder = plain(tmp_path / "a")
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(ModelLoadError, match=named):
        load_adapter(str(folder), CONFIG)


def test_an_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ModelLoadError, match=r"k_proj\.lora_B\.weight has shape \(24, 3\), rank and base say \(48, 3\)"
    ):
        load_adapter(str(plain(tmp_path / "a")), config_from_hf(checkpoints.CONFIGS["llama2"]))


def test_integers_are_no_adapter(tmp_path: Path) -> None:
    tensors = {n: t.astype(np.int32) for n, t in peft_folder.factors(WEIGHTS, dict.fromkeys(ALL, 3)).items()}
    adapter = load_adapter(str(peft_folder.write_peft(tmp_path / "a", tensors)), CONFIG)
    source = AdaptedSource(SafetensorsFolder(checkpoints.write_folder(tmp_path, HF, WEIGHTS)), adapter)
    with pytest.raises(ModelLoadError, match="stored as I32"):
        source.read("model.layers.0.mlp.up_proj.weight", (slice(0, 80), slice(0, 48)))


def test_a_folder_without_an_adapter(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"holds no adapter_config\.json; give the folder that PEFT"):
        load_adapter(str(tmp_path), CONFIG)
    (plain(tmp_path / "a") / "adapter_model.safetensors").rename(tmp_path / "a" / "adapter_model.bin")
    with pytest.raises(ModelLoadError, match=r"neither adapter_model\.safetensors nor .* safe_serialization=True"):
        load_adapter(str(tmp_path / "a"), CONFIG)


@pytest.mark.parametrize("spec", ["embedded-of-no-one", "./no/such", "~rcjax-no-such-user/a"])
def test_what_names_no_adapter(spec: str) -> None:
    with pytest.raises(ModelLoadError, match=f"adapter '{spec}'"):
        load_adapter(spec, CONFIG)


def test_a_hub_id_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelLoadError, match=r"cannot get adapter 'rcjax/absent' from .* Offline, give a local folder"):
        load_adapter("rcjax/absent", CONFIG)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damage_is_an_error_or_no_damage(tmp_path: Path, data: st.DataObject) -> None:
    """Whatever bytes of a file change, it is an adapter or a ModelLoadError of one line."""
    folder = plain(tmp_path / "a")
    file = folder / data.draw(st.sampled_from(["adapter_config.json", "adapter_model.safetensors"]))
    content = bytearray(file.read_bytes()[:4000])
    start = data.draw(st.integers(0, len(content) - 1))
    content[start : start + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    file.write_bytes(content)
    try:
        load_adapter(str(folder), CONFIG)
    except ModelLoadError as error:
        assert "\n" not in str(error)  # noqa: PT017
        assert str(folder) in str(error)  # noqa: PT017

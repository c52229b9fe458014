from typing import Any

import checkpoints
import numpy as np
import pytest

from rcjax.model.config import ModelConfig, RopeScaling
from rcjax.model.hf_config import config_from_hf
from rcjax.model.load_error import ModelLoadError
from rcjax.model.rope import inverse_frequencies

LLAMA = checkpoints.CONFIGS["llama2"]
# The published config.json of Qwen/Qwen2.5-7B-Instruct with the YaRN that its model card gives.
QWEN25_YARN = {
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_act": "silu",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "max_position_embeddings": 32768,
    "max_window_layers": 28,
    "model_type": "qwen2",
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06,
    "rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 32768, "type": "yarn"},
    "rope_theta": 1000000.0,
    "sliding_window": 131072,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "vocab_size": 152064,
}


def test_every_field_of_a_real_config() -> None:
    assert config_from_hf(QWEN25_YARN) == ModelConfig(
        num_layers=28,
        d_model=3584,
        num_heads=28,
        num_kv_heads=4,
        head_dim=128,
        d_ff=18944,
        vocab_size=152064,
        rope_theta=1e6,
        norm_eps=1e-6,
        max_len=32768,
        rope_scaling=RopeScaling("yarn", factor=4.0, original_max_len=32768, attention_factor=1.1386294361119891),
        qkv_bias=True,
    )


def test_v4_and_v5_spellings_agree() -> None:
    scaling = {"factor": 4.0, "original_max_position_embeddings": 32}
    v4 = LLAMA | {"rope_theta": 5e4, "rope_scaling": scaling | {"type": "yarn"}}
    v5 = {key: value for key, value in LLAMA.items() if key != "rope_theta"} | {
        "rope_parameters": scaling | {"rope_type": "yarn", "rope_theta": 5e4}
    }
    assert config_from_hf(v4) == config_from_hf(v5)


def test_missing_keys_mean_what_transformers_takes_them_to_mean() -> None:
    bare = {key: LLAMA[key] for key in ("hidden_size", "intermediate_size", "num_attention_heads")}
    bare |= {"num_hidden_layers": 3, "vocab_size": 72}
    llama = config_from_hf(bare | {"model_type": "llama"})
    assert (llama.num_kv_heads, llama.head_dim, llama.rope_theta, llama.tied_embeddings) == (4, 12, 1e4, False)
    assert config_from_hf(bare | {"model_type": "qwen3"}).head_dim == 128
    assert config_from_hf(bare | {"model_type": "mistral"}).sliding_window == 4096


@pytest.mark.parametrize(
    ("family", "changes", "window"),
    [
        ("mistral", {"sliding_window": None}, None),
        ("mistral", {"sliding_window": 8}, 8),
        ("qwen2", {"use_sliding_window": False, "sliding_window": 8}, None),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0}, 8),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 3}, None),
        ("qwen3", {"use_sliding_window": True, "sliding_window": 8, "layer_types": ["sliding_attention"] * 3}, 8),
        ("llama2", {"sliding_window": 8}, None),
        ("mistral", {"layer_types": ["sliding_attention"] * 3}, 8),
        ("mistral", {"sliding_window": None, "layer_types": ["full_attention"] * 3}, None),
        ("mistral", {"model_type": "ministral", "layer_types": ["full_attention"] * 3}, None),
        ("mistral", {"model_type": "ministral", "layer_types": ["sliding_attention"] * 3}, 8),
        ("mistral", {"model_type": "ministral"}, 8),
    ],
)
def test_sliding_window(family: str, changes: dict[str, Any], window: int | None) -> None:
    assert config_from_hf(checkpoints.CONFIGS[family] | changes).sliding_window == window


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "mixtral"}, "'mixtral'"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"attention_bias": True}, "attention_bias=True"),
        ({"mlp_bias": True}, "mlp_bias=True"),
        ({"partial_rotary_factor": 0.5}, r"partial_rotary_factor=0\.5"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"num_local_experts": 8}, "num_local_experts=8"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "'dynamic'"),
        ({"rope_scaling": {"rope_type": "longrope"}}, "'longrope'"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling lacks factor"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "varies by layer type"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ({"model_type": "qwen2", "use_sliding_window": True, "max_window_layers": 1}, "max_window_layers=1"),
        ({"vocab_size": None}, "vocab_size"),
        ({"vocab_size": "266"}, "vocab_size='266' must be a whole number"),
        ({"vocab_size": 72.0}, r"vocab_size=72\.0 must be a whole number"),
        ({"num_hidden_layers": True}, "num_hidden_layers=True"),
        ({"num_attention_heads": 0}, "num_attention_heads=0 must be a whole number of at least 1"),
        ({"num_attention_heads": 5}, "hidden_size=48 must be a multiple of num_attention_heads=5"),
        ({"num_key_value_heads": 3}, "num_heads=4 must be a multiple of self.num_kv_heads=3"),
        ({"head_dim": 13}, "head_dim=13 must be even"),
        ({"rms_norm_eps": "1e-5"}, "rms_norm_eps='1e-5' must be a finite number"),
        ({"rope_theta": float("nan")}, "rope_theta=nan must be a finite number above 1"),
        ({"max_position_embeddings": [1]}, r"max_position_embeddings=\[1\]"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings='false' must be true or false"),
        ({"rope_scaling": {"type": "linear", "factor": None}}, "rope_scaling lacks factor"),
        ({"rope_scaling": {"type": "linear", "factor": "2"}}, "rope_scaling: factor='2' must be a finite number"),
        (
            {"rope_scaling": {"type": "llama3", "low_freq_factor": 4, "high_freq_factor": 4}},
            "low_freq_factor=4",
        ),
        ({"rope_scaling": [1]}, r"rope_scaling=\[1\] must be an object"),
        ({"rope_scaling": {"type": 3}}, "type=3 must be a text"),
        ({"architectures": ["Qwen3Model"]}, r"architectures=\['Qwen3Model'\] has no head"),
        ({"architectures": ["Qwen3ForSequenceClassification"]}, "has no head for tokens"),
        ({"layer_types": ["linear_attention"] * 3}, "layer_types=.* is not supported"),
        ({"layer_types": ["full_attention"] * 2}, "must have num_hidden_layers=3 entries"),
        ({"model_type": "mistral", "layer_types": ["full_attention"] * 3}, "contradicts sliding_window=8"),
        ({"model_type": "ministral", "layer_types": ["full_attention", "sliding_attention"] * 2}, "layer_types"),
        ({"model_type": ["llama"]}, r"model_type=\['llama'\]"),
    ],
)
def test_what_would_compute_other_logits_is_refused_by_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelLoadError, match=named) as raised:
        config_from_hf(LLAMA | {"sliding_window": 8} | changes, "a/config.json")
    assert raised.value.message.startswith("a/config.json")
    assert "\n" not in raised.value.message


LLAMA31 = LLAMA | {
    "head_dim": 128,
    "rope_theta": 500000.0,
    "max_position_embeddings": 131072,
    "rope_scaling": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
}
MSCALE_FROM_LENGTHS = LLAMA31 | {
    "rope_scaling": {
        "type": "yarn",
        "factor": None,
        "mscale": 0.707,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 4096,
    }
}


@pytest.mark.live
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("config", [QWEN25_YARN, LLAMA31, MSCALE_FROM_LENGTHS, *checkpoints.CONFIGS.values()])
def test_frequencies_are_those_of_transformers(config: dict[str, Any]) -> None:
    pytest.importorskip("torch", reason="the live comparison needs torch")
    from transformers import AutoConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    hf = AutoConfig.for_model(**config)
    ours = config_from_hf(config)
    kind = hf.rope_parameters["rope_type"]
    if kind == "default":
        assert ours.rope_scaling is None
        return
    frequencies, factor = ROPE_INIT_FUNCTIONS[kind](hf, "cpu")
    np.testing.assert_allclose(inverse_frequencies(ours), frequencies.numpy(), rtol=1e-5)
    assert ours.rope_scaling.attention_factor == pytest.approx(factor, rel=1e-12)


@pytest.mark.parametrize(("factor", "expected"), [(0.5, 1.0), (1.0, 1.0), (np.e, 1.1), (np.e**2, 1.2)])
def test_yarn_turns_nothing_down(factor, expected):
    """Below 1 the logarithm would make the attention factor less than 1."""
    scaling = {"type": "yarn", "factor": factor, "original_max_position_embeddings": 64}
    found = config_from_hf(LLAMA | {"rope_scaling": scaling}).rope_scaling
    assert found.attention_factor == pytest.approx(expected)

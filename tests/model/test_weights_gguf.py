from pathlib import Path
from typing import Any

import checkpoints
import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rcjax.model.config import RopeScaling
from rcjax.model.gguf import GgufFile
from rcjax.model.hf_config import config_from_hf
from rcjax.model.load_error import ModelLoadError
from rcjax.model.safetensors_folder import SafetensorsFolder
from rcjax.model.weights import load_params


def writer(path: Path, family: str, **changes: Any) -> gguf.GGUFWriter:
    config = checkpoints.CONFIGS[family] | changes
    return checkpoints.gguf_writer(path, config, checkpoints.tensors(config))


def opened(path: Path, made: gguf.GGUFWriter) -> GgufFile:
    checkpoints.finish(made)
    return GgufFile(path)


@pytest.mark.parametrize("family", ["llama2", "llama3", "qwen2", "qwen3"])
def test_gguf_equals_the_folder_it_was_made_from(tmp_path: Path, family: str) -> None:
    hf = checkpoints.CONFIGS[family] | {"rope_scaling": None}
    checkpoints.write_folder(tmp_path, hf, checkpoints.tensors(hf))
    file = opened(tmp_path / "m.gguf", writer(tmp_path / "m.gguf", family))
    assert file.config == config_from_hf(hf)
    ours = load_params(file.config, file, dtype=jnp.float32)
    theirs = load_params(config_from_hf(hf), SafetensorsFolder(tmp_path), dtype=jnp.float32)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.parametrize("family", ["llama3", "qwen3"])
def test_part_of_a_tensor_is_that_part_of_the_whole(tmp_path: Path, family: str) -> None:
    file = opened(tmp_path / "m.gguf", writer(tmp_path / "m.gguf", family))
    name, head_dim = "model.layers.1.self_attn.q_proj.weight", file.config.head_dim
    rows, columns = file.shape(name)
    whole = file.read(name, (slice(0, rows), slice(0, columns)))
    part = slice(head_dim, 3 * head_dim), slice(5, 17)
    np.testing.assert_array_equal(file.read(name, part), whole[part])


def test_quantized_tensors_are_dequantized(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    weights = checkpoints.tensors(checkpoints.CONFIGS["llama2"])
    down = np.random.default_rng(0).standard_normal((48, 96)).astype(np.float32)  # Q8_0 packs 32 numbers
    made = checkpoints.gguf_writer(path, checkpoints.CONFIGS["llama2"], weights)
    packed = gguf.quantize(down, gguf.GGMLQuantizationType.Q8_0)
    made.add_tensor("blk.9.ffn_down.weight", packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    read = opened(path, made).read("model.layers.9.mlp.down_proj.weight", (slice(8, 40), slice(32, 96)))
    np.testing.assert_allclose(read, down[8:40, 32:96], atol=np.abs(down).max() / 127)


def test_unknown_tensor_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    made = writer(path, "llama2")
    made.add_tensor("blk.0.attn_sinks.weight", np.zeros(4, np.float32))
    file = opened(path, made)
    with pytest.raises(ModelLoadError, match=r"unexpected blk\.0\.attn_sinks\.weight"):
        load_params(file.config, file, dtype=jnp.float32)


def test_linear_and_yarn_scaling_are_read(tmp_path: Path) -> None:
    linear = writer(tmp_path / "linear.gguf", "llama2")
    linear.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    linear.add_rope_scaling_factor(3.0)
    expected = config_from_hf(checkpoints.CONFIGS["linear"]).rope_scaling
    assert opened(tmp_path / "linear.gguf", linear).config.rope_scaling == expected
    yarn = writer(tmp_path / "yarn.gguf", "llama2")
    yarn.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    yarn.add_rope_scaling_factor(4.0)
    yarn.add_rope_scaling_orig_ctx_len(32)
    expected = config_from_hf(checkpoints.CONFIGS["yarn"]).rope_scaling
    assert opened(tmp_path / "yarn.gguf", yarn).config.rope_scaling == expected


def llama3_divisors(theta: float, head_dim: int, factor: float, original_len: int) -> np.ndarray:
    """One pair after another, as the definition of Llama 3's scaling reads."""
    divisors = []
    for pair in range(head_dim // 2):
        wavelength = 2 * np.pi * theta ** (2 * pair / head_dim)
        turns = original_len / wavelength  # within the original length
        share = min(max((turns - 1) / (4 - 1), 0), 1)
        divisors.append(1 / ((1 - share) / factor + share))
    return np.array(divisors, np.float32)


def test_llama3_frequencies_become_llama3_scaling(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    made = writer(path, "llama2", rope_theta=500000.0)
    made.add_tensor("rope_freqs.weight", llama3_divisors(500000.0, 12, 32.0, 8192))
    scaling = opened(path, made).config.rope_scaling
    assert scaling == RopeScaling("llama3", factor=32.0, original_max_len=8192)


def test_other_frequencies_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    made = writer(path, "llama2", rope_theta=500000.0)
    made.add_tensor("rope_freqs.weight", llama3_divisors(500000.0, 12, 32.0, 4096))
    with pytest.raises(ModelLoadError, match=r"rope_freqs\.weight is not Llama 3's scaling"):
        opened(path, made)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE), "longrope"),
        (lambda w: w.add_sliding_window(8), r"attention\.sliding_window=8"),
        (lambda w: w.add_expert_count(4), "expert_count=4"),
        (lambda w: w.add_rope_scaling_attn_factors(1.5), r"attn_factor=1\.5"),
    ],
)
def test_unsupported_metadata_is_named(tmp_path: Path, change: Any, named: str) -> None:
    made = writer(tmp_path / "m.gguf", "llama2")
    change(made)
    with pytest.raises(ModelLoadError, match=named):
        opened(tmp_path / "m.gguf", made)


def test_unsupported_architecture_and_broken_file_are_errors(tmp_path: Path) -> None:
    other = gguf.GGUFWriter(tmp_path / "phi.gguf", "phi3")
    checkpoints.finish(other)
    with pytest.raises(ModelLoadError, match="'phi3' is not supported"):
        GgufFile(tmp_path / "phi.gguf")
    (tmp_path / "broken.gguf").write_bytes(b"not a model, not at all")
    with pytest.raises(ModelLoadError, match="not a readable GGUF file"):
        GgufFile(tmp_path / "broken.gguf")
    with pytest.raises(ModelLoadError, match="not a readable GGUF file"):
        GgufFile(tmp_path / "absent.gguf")

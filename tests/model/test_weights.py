from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import checkpoints
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from rcjax.model.decoder import abstract_params, logical_axes
from rcjax.model.fingerprint import digest_of, fingerprint
from rcjax.model.hf_config import config_from_hf
from rcjax.model.load_error import ModelLoadError
from rcjax.model.rope import inverse_frequencies
from rcjax.model.safetensors_folder import SafetensorsFolder
from rcjax.model.weights import load_params, with_stored_head

FAMILIES = list(checkpoints.CONFIGS)


def load(folder: Path, family: str = "llama3", dtype: Any = jnp.float32) -> dict[str, Any]:
    return load_params(config_from_hf(checkpoints.CONFIGS[family]), SafetensorsFolder(folder), dtype=dtype)


def write(folder: Path, family: str = "llama3", **options: Any) -> Path:
    config = checkpoints.CONFIGS[family]
    return checkpoints.write_folder(folder, config, checkpoints.tensors(config), **options)


def assert_trees_equal(ours: Any, theirs: Any) -> None:
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), ours, theirs)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_tree_is_the_decoders(tmp_path: Path, family: str, dtype: Any) -> None:
    params = load(write(tmp_path, family), family, dtype)
    expected = abstract_params(config_from_hf(checkpoints.CONFIGS[family]), dtype)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), params) == jax.tree.map(lambda a: (a.shape, a.dtype), expected)


def test_shards_with_an_index_equal_one_file(tmp_path: Path) -> None:
    one, many = tmp_path / "one", tmp_path / "many"
    one.mkdir()
    many.mkdir()
    assert_trees_equal(load(write(one)), load(write(many, num_shards=3)))


@pytest.mark.parametrize("stored", [ml_dtypes.bfloat16, np.float16])
def test_half_precision_sources_keep_their_values(tmp_path: Path, stored: Any) -> None:
    config = checkpoints.CONFIGS["llama3"]
    rounded = {name: tensor.astype(stored) for name, tensor in checkpoints.tensors(config).items()}
    half, full = tmp_path / "half", tmp_path / "full"
    half.mkdir()
    full.mkdir()
    checkpoints.write_folder(half, config, rounded)
    checkpoints.write_folder(full, config, {name: t.astype(np.float32) for name, t in rounded.items()})
    assert_trees_equal(load(half), load(full))


def test_quantized_tensors_are_refused(tmp_path: Path) -> None:
    config = checkpoints.CONFIGS["llama3"]
    weights = checkpoints.tensors(config)
    weights["model.norm.weight"] = weights["model.norm.weight"].astype(np.int8)
    checkpoints.write_folder(tmp_path, config, weights)
    with pytest.raises(ModelLoadError, match=r"model\.norm\.weight is stored as I8"):
        load(tmp_path)


def test_tensors_that_do_not_fit_are_all_named(tmp_path: Path) -> None:
    config = checkpoints.CONFIGS["llama3"]
    weights = checkpoints.tensors(config)
    del weights["model.layers.1.mlp.up_proj.weight"]
    weights["model.layers.0.self_attn.q_proj.lora_A"] = np.zeros(3, np.float32)
    weights["model.norm.weight"] = np.zeros(3, np.float32)
    with pytest.raises(ModelLoadError) as raised:
        load(checkpoints.write_folder(tmp_path, config, weights))
    assert "missing model.layers.1.mlp.up_proj.weight" in raised.value.message
    assert "unexpected model.layers.0.self_attn.q_proj.lora_A" in raised.value.message
    assert "model.norm.weight has shape (3,), the config says (48,)" in raised.value.message


def test_redundant_tensors_are_ignored(tmp_path: Path) -> None:
    config = checkpoints.CONFIGS["qwen2"]
    plain, redundant = tmp_path / "plain", tmp_path / "redundant"
    plain.mkdir()
    redundant.mkdir()
    weights = checkpoints.tensors(config)
    extra = {
        "lm_head.weight": weights["model.embed_tokens.weight"].copy(),
        "model.layers.0.self_attn.rotary_emb.inv_freq": inverse_frequencies(config_from_hf(config)),
    }
    checkpoints.write_folder(plain, config, weights)
    checkpoints.write_folder(redundant, config, weights | extra)
    assert_trees_equal(load(redundant, "qwen2"), load(plain, "qwen2"))


def tied_with_head(folder: Path, head: np.ndarray) -> Path:
    """A checkpoint that says its head is the embedding, and stores one."""
    config = checkpoints.CONFIGS["qwen2"]
    return checkpoints.write_folder(folder, config, checkpoints.tensors(config) | {"lm_head.weight": head})


def test_a_stored_head_of_other_values_is_used(tmp_path: Path) -> None:
    """One number that differs is enough; the logits are those of the same weights untied."""
    config = config_from_hf(checkpoints.CONFIGS["qwen2"])
    embedding = checkpoints.tensors(checkpoints.CONFIGS["qwen2"])["model.embed_tokens.weight"]
    head = embedding.copy()
    head[-1, -1] += 1
    source = SafetensorsFolder(tied_with_head(tmp_path, head))
    untied = with_stored_head(config, source)
    assert untied == replace(config, tied_embeddings=False)
    params = load_params(untied, source, dtype=jnp.float32)
    np.testing.assert_array_equal(params["lm_head"], head.T)
    with pytest.raises(ModelLoadError, match=r"lm_head\.weight differs from .*; set tie_word_embeddings to false"):
        load_params(config, source, dtype=jnp.float32)


def test_a_stored_head_of_the_same_values_is_the_embedding(tmp_path: Path) -> None:
    config = config_from_hf(checkpoints.CONFIGS["qwen2"])
    embedding = checkpoints.tensors(checkpoints.CONFIGS["qwen2"])["model.embed_tokens.weight"]
    assert with_stored_head(config, SafetensorsFolder(tied_with_head(tmp_path, embedding.copy()))) == config


def test_a_stored_head_of_another_shape_is_an_error(tmp_path: Path) -> None:
    config = config_from_hf(checkpoints.CONFIGS["qwen2"])
    source = SafetensorsFolder(tied_with_head(tmp_path, np.zeros((3, 48), np.float32)))
    with pytest.raises(ModelLoadError, match=r"lm_head\.weight has shape \(3, 48\), the config says \(72, 48\)"):
        load_params(with_stored_head(config, source), source, dtype=jnp.float32)


def test_stored_frequencies_that_the_config_does_not_give_are_an_error(tmp_path: Path) -> None:
    config = checkpoints.CONFIGS["llama2"]
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    frequencies = inverse_frequencies(config_from_hf(config | {"rope_theta": 5e5}))
    folder = checkpoints.write_folder(tmp_path, config, checkpoints.tensors(config) | {name: frequencies})
    with pytest.raises(ModelLoadError, match=r"inv_freq holds other frequencies than .* rope_theta=10000"):
        load(folder, "llama2")


def test_tensors_of_an_embedding_model_are_refused(tmp_path: Path) -> None:
    config = checkpoints.CONFIGS["qwen2"]
    bare = {name.removeprefix("model."): tensor for name, tensor in checkpoints.tensors(config).items()}
    with pytest.raises(ModelLoadError, match=r"lack the prefix 'model\.': an embedding model"):
        load(checkpoints.write_folder(tmp_path, config, bare), "qwen2")


def test_a_config_of_more_layers_than_tensors_is_an_error(tmp_path: Path) -> None:
    config = checkpoints.CONFIGS["llama2"]
    source = SafetensorsFolder(checkpoints.write_folder(tmp_path, config, checkpoints.tensors(config)))
    with pytest.raises(ModelLoadError, match="30 tensors cannot make the config's 1000000000 layers"):
        load_params(config_from_hf(config | {"num_hidden_layers": 10**9}), source, dtype=jnp.float32)


def test_lm_head_is_unexpected_only_when_tied(tmp_path: Path) -> None:
    config = checkpoints.CONFIGS["llama3"]
    weights = checkpoints.tensors(config)
    del weights["lm_head.weight"]
    with pytest.raises(ModelLoadError, match=r"missing lm_head\.weight"):
        load(checkpoints.write_folder(tmp_path, config, weights))


def tensor_parallel(family: str) -> dict[str, Any]:
    """Heads, ffn and vocabulary over 2 devices, d_model over 2 more."""
    mesh = jax.make_mesh((2, 2), ("tensor", "data"), devices=jax.devices()[:4])
    rules = {"heads": "tensor", "kv_heads": "tensor", "mlp": "tensor", "vocab": "tensor", "embed": "data"}
    return jax.tree.map(
        lambda axes: NamedSharding(mesh, PartitionSpec(*(rules.get(axis) for axis in axes))),
        logical_axes(config_from_hf(checkpoints.CONFIGS[family])),
        is_leaf=lambda node: isinstance(node, tuple),
    )


@pytest.mark.parametrize("family", ["llama3", "qwen2", "qwen3"])
def test_sharded_equals_unsharded(tmp_path: Path, family: str) -> None:
    folder = write(tmp_path, family)
    config = config_from_hf(checkpoints.CONFIGS[family])
    sharded = load_params(config, SafetensorsFolder(folder), dtype=jnp.float32, shardings=tensor_parallel(family))
    assert len(sharded["layers"]["q_proj"].sharding.device_set) == 4
    assert sharded["layers"]["q_proj"].addressable_shards[0].data.shape == (3, 24, 2, config.head_dim)
    assert_trees_equal(sharded, load(folder, family))


class CountingSource(SafetensorsFolder):
    """Remembers how many numbers each read returned."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.num_read: dict[str, list[int]] = {}

    def read(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        tensor = super().read(name, index)
        self.num_read.setdefault(name, []).append(tensor.size)
        return tensor


def test_each_number_is_read_once_and_only_in_its_shards(tmp_path: Path) -> None:
    source = CountingSource(write(tmp_path))
    config = config_from_hf(checkpoints.CONFIGS["llama3"])
    load_params(config, source, dtype=jnp.float32, shardings=tensor_parallel("llama3"))
    weights = checkpoints.tensors(checkpoints.CONFIGS["llama3"])
    assert {name: sum(sizes) for name, sizes in source.num_read.items()} == {n: t.size for n, t in weights.items()}
    matrices = (name for name, tensor in weights.items() if tensor.ndim == 2)
    assert all(len(source.num_read[name]) == 4 for name in matrices)


def test_folder_without_weights_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelLoadError, match="safe_serialization=True"):
        SafetensorsFolder(tmp_path)


def test_truncated_file_is_an_error(tmp_path: Path) -> None:
    file = write(tmp_path) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(ModelLoadError, match=r"cannot read .*model\.safetensors"):
        SafetensorsFolder(tmp_path)


@pytest.mark.parametrize("name", ["../other/model.safetensors", "model.bin", "absent.safetensors"])
def test_index_that_names_no_shard_beside_it_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(f'{{"weight_map": {{"a": "{name}"}}}}')
    with pytest.raises(ModelLoadError, match=name):
        SafetensorsFolder(tmp_path)


def test_fingerprint_follows_config_dtype_and_bytes(tmp_path: Path) -> None:
    def of(family: str, dtype: Any, files: Iterable[Path]) -> str:
        return fingerprint(config_from_hf(checkpoints.CONFIGS[family]), dtype, digest_of(files))

    files = SafetensorsFolder(write(tmp_path)).files
    before = of("llama3", jnp.float32, files)
    assert before == of("llama3", jnp.float32, files)
    content = bytearray(files[0].read_bytes())
    content[-1] ^= 1
    changed = tmp_path / "changed.safetensors"
    changed.write_bytes(content)
    others = [of("linear", jnp.float32, files), of("llama3", jnp.bfloat16, files), of("llama3", jnp.float32, [changed])]
    assert len({before, *others}) == 4

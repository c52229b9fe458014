"""A base with a LoRA adapter is the checkpoint that has it merged by hand."""

import math
from pathlib import Path
from typing import Any

import checkpoints
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import peft_folder
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh
from test_weights import CountingSource

from rcjax.model import location
from rcjax.model.adapter import AdaptedSource, load_adapter
from rcjax.model.config import ModelConfig
from rcjax.model.decoder import forward
from rcjax.model.gguf import GgufFile
from rcjax.model.hf_config import config_from_hf
from rcjax.model.load_error import ModelLoadError
from rcjax.model.safetensors_folder import SafetensorsFolder
from rcjax.model.sharding import param_shardings
from rcjax.model.spec import load_model
from rcjax.model.weights import TensorSource, load_params

HF = checkpoints.CONFIGS["llama3"]
CONFIG = config_from_hf(HF)
WEIGHTS = checkpoints.tensors(HF)
ALL = peft_folder.modules(WEIGHTS)
LAYER_1 = "model.layers.1"


def plain(folder: Path, **fields: Any) -> Path:
    """An adapter of rank 3 and alpha 6 on every projection of the llama3 checkpoint."""
    return peft_folder.write_peft(folder, peft_folder.factors(WEIGHTS, dict.fromkeys(ALL, 3)), **fields)


def base(folder: Path, hf: dict[str, Any], weights: dict[str, np.ndarray] | None = None) -> SafetensorsFolder:
    folder.mkdir(parents=True)
    return SafetensorsFolder(checkpoints.write_folder(folder, hf, weights or checkpoints.tensors(hf)))


def adapted(source: TensorSource, adapter: Path, config: ModelConfig = CONFIG, dtype: Any = jnp.float32, **more: Any):
    return load_params(config, AdaptedSource(source, load_adapter(str(adapter), config)), dtype=dtype, **more)


@pytest.mark.parametrize("family", ["llama2", "llama3", "qwen2", "qwen3", "mistral"])
def test_it_is_the_checkpoint_that_was_merged_by_hand(tmp_path: Path, family: str) -> None:
    hf = checkpoints.CONFIGS[family]
    config, weights = config_from_hf(hf), checkpoints.tensors(hf)
    ranks = dict.fromkeys(peft_folder.modules(weights), 3)
    tensors = peft_folder.factors(weights, ranks)
    ours = adapted(base(tmp_path / "b", hf), peft_folder.write_peft(tmp_path / "a", tensors), config)
    by_hand = peft_folder.merged(weights, tensors, dict.fromkeys(ranks, 2.0))
    theirs = load_params(config, base(tmp_path / "m", hf, by_hand), dtype=jnp.float32)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), ours, theirs)
    ids = jnp.asarray(checkpoints.token_ids())
    ours, theirs = forward(ours, config, ids), forward(theirs, config, ids)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)
    unchanged = forward(load_params(config, SafetensorsFolder(tmp_path / "b"), dtype=jnp.float32), config, ids)
    assert np.abs(np.asarray(ours - unchanged)).max() > 1


@pytest.mark.parametrize("family", ["llama2", "qwen2", "qwen3"])
def test_it_means_the_same_on_a_gguf_file(tmp_path: Path, family: str) -> None:
    """The llama architecture's files have the rows of q and k in another order."""
    hf = checkpoints.CONFIGS[family]
    config, weights = config_from_hf(hf), checkpoints.tensors(hf)
    folder = peft_folder.write_peft(
        tmp_path / "a", peft_folder.factors(weights, dict.fromkeys(peft_folder.modules(weights), 3))
    )
    checkpoints.finish(checkpoints.gguf_writer(tmp_path / "m.gguf", hf, weights))
    on_gguf = adapted(GgufFile(tmp_path / "m.gguf"), folder, config)
    on_folder = adapted(base(tmp_path / "b", hf), folder, config)
    jax.tree.map(np.testing.assert_array_equal, on_gguf, on_folder)


SCALES: dict[str, tuple[dict[str, Any], dict[str, tuple[int, float]]]] = {
    "some kinds": ({"target_modules": ["q_proj", "v_proj"]}, {"q_proj": (3, 2.0), "v_proj": (3, 2.0)}),
    "all-linear": ({"target_modules": "all-linear"}, {"_proj": (3, 2.0)}),
    "a whole name": ({"target_modules": [f"{LAYER_1}.mlp.up_proj"]}, {f"{LAYER_1}.mlp.up_proj": (3, 2.0)}),
    "an expression": (
        {"target_modules": r".*\.[02]\.self_attn\.[qk]_proj"},
        {f"layers.{layer}.self_attn.{kind}_proj": (3, 2.0) for layer in (0, 2) for kind in "qk"},
    ),
    "without": (
        {"target_modules": ["k_proj", "o_proj"], "exclude_modules": ["layers.0.self_attn.k_proj"]},
        {
            f"{layer}.self_attn.{kind}_proj": (3, 2.0)
            for layer, kind in ((1, "k"), (2, "k"), (0, "o"), (1, "o"), (2, "o"))
        },
    ),
    "without an expression": (
        {"target_modules": "all-linear", "exclude_modules": r".*\.(self_attn|[12]\.mlp)\..*"},
        {f"layers.0.mlp.{kind}_proj": (3, 2.0) for kind in ("gate", "up", "down")},
    ),
    "of some layers": (
        {"target_modules": ["q_proj"], "layers_to_transform": [0, 2]},
        {f"layers.{layer}.self_attn.q_proj": (3, 2.0) for layer in (0, 2)},
    ),
    "of one layer": (
        {"target_modules": ["q_proj"], "layers_to_transform": 1, "layers_pattern": "layers"},
        {f"{LAYER_1}.self_attn.q_proj": (3, 2.0)},
    ),
    "rank-stabilised": (
        {"target_modules": ["q_proj"], "r": 4, "use_rslora": True},
        {"q_proj": (4, 3.0)},  # 6 / sqrt(4)
    ),
    "patterns": (
        {
            "target_modules": ["q_proj", "k_proj"],
            "rank_pattern": {r"layers\.1\.self_attn\.q_proj": 5, "k_proj": 1},
            "alpha_pattern": {r"^model\.layers\.[01]\.self_attn\.q_proj": 10},
        },
        {
            "0.self_attn.q_proj": (3, 10 / 3),
            "1.self_attn.q_proj": (5, 2.0),
            "2.self_attn.q_proj": (3, 2.0),
            "k_proj": (1, 6.0),
        },
    ),
    "the first pattern, rank-stabilised": (
        {
            "target_modules": ["up_proj"],
            "rank_pattern": {"up_proj": 9, "layers.0.mlp.up_proj": 1},
            "use_rslora": True,
            "lora_alpha": 1.5,
        },
        {"up_proj": (9, 0.5)},
    ),
}


@pytest.mark.parametrize("case", SCALES)
def test_modules_ranks_and_scales(tmp_path: Path, case: str) -> None:
    fields, by_end = SCALES[case]
    wanted = {module: value for end, value in by_end.items() for module in ALL if module.endswith(end)}
    tensors = peft_folder.factors(WEIGHTS, {module: rank for module, (rank, _) in wanted.items()})
    folder = peft_folder.write_peft(tmp_path / "a", tensors, **fields)
    scales = {module: scale for module, (_, scale) in wanted.items()}
    expected = peft_folder.merged(WEIGHTS, tensors, scales)
    source = AdaptedSource(base(tmp_path / "b", HF), load_adapter(str(folder), CONFIG))
    for name, tensor in expected.items():
        found = source.read(name, tuple(slice(0, size) for size in tensor.shape))
        np.testing.assert_allclose(found, tensor, rtol=0, atol=1e-6, err_msg=name)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rank=st.integers(1, 60),
    alpha=st.floats(0.25, 64, width=32),
    rslora=st.booleans(),
    kinds=st.sets(st.sampled_from(peft_folder.PROJECTIONS), min_size=1),
    seed=st.integers(0, 99),
)
def test_any_rank_and_alpha(tmp_path: Path, rank: int, alpha: float, rslora: bool, kinds: set[str], seed: int) -> None:
    tensors = peft_folder.factors(WEIGHTS, dict.fromkeys(peft_folder.modules(WEIGHTS, *kinds), rank), seed)
    folder = peft_folder.write_peft(
        tmp_path / "a", tensors, r=rank, lora_alpha=alpha, use_rslora=rslora, target_modules=sorted(kinds)
    )
    if not (tmp_path / "b").exists():
        base(tmp_path / "b", HF)
    source = AdaptedSource(SafetensorsFolder(tmp_path / "b"), load_adapter(str(folder), CONFIG))
    scale = alpha / (math.sqrt(rank) if rslora else rank)
    expected = peft_folder.merged(WEIGHTS, tensors, dict.fromkeys(peft_folder.modules(WEIGHTS, *kinds), scale))
    for module in ALL:
        name = f"{module}.weight"
        found = source.read(name, tuple(slice(0, size) for size in expected[name].shape))
        np.testing.assert_allclose(found, expected[name], rtol=1e-5, atol=1e-5)


def test_the_sum_is_rounded_once(tmp_path: Path) -> None:
    """To the weights' dtype, also where the checkpoint has it already; the adapter is stored in half precision."""
    halved = {name: tensor.astype(ml_dtypes.bfloat16) for name, tensor in WEIGHTS.items()}
    tensors = {n: t.astype(np.float16) for n, t in peft_folder.factors(WEIGHTS, dict.fromkeys(ALL, 3)).items()}
    source = base(tmp_path / "b", HF, halved)
    params = adapted(source, peft_folder.write_peft(tmp_path / "a", tensors), dtype=jnp.bfloat16)
    as_floats = {name: tensor.astype(np.float32) for name, tensor in halved.items()}
    module = f"{LAYER_1}.mlp.down_proj"
    summed = peft_folder.merged(as_floats, tensors, {module: 2.0})[f"{module}.weight"]
    found = np.asarray(params["layers"]["down_proj"][1]).T
    # float32 and float64 sums may lie on two sides of a tie
    assert np.mean(found == summed.astype(ml_dtypes.bfloat16)) > 0.999
    np.testing.assert_allclose(found.astype(np.float32), summed, rtol=2**-8, atol=1e-6)


def test_each_device_reads_its_own_part(tmp_path: Path) -> None:
    mesh = Mesh(np.array(jax.devices()[:2]), ("tensor",))
    counting = CountingSource(base(tmp_path / "b", HF).files[0].parent)
    sharded = adapted(counting, plain(tmp_path / "a"), shardings=param_shardings(CONFIG, mesh))
    whole = adapted(SafetensorsFolder(tmp_path / "b"), tmp_path / "a")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), sharded, whole)
    q_proj = sharded["layers"]["q_proj"]
    assert {shard.data.shape[2] for shard in q_proj.addressable_shards} == {checkpoints.NUM_HEADS // 2}
    assert (
        sum(counting.num_read[f"{LAYER_1}.self_attn.q_proj.weight"])
        == WEIGHTS[f"{LAYER_1}.self_attn.q_proj.weight"].size
    )


def test_a_shipped_adapter_is_found_by_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(location, "SHIPPED", tmp_path)
    plain(tmp_path / "shop")
    assert load_adapter("shop", CONFIG).name == "shop"
    with pytest.raises(ModelLoadError, match=r"adapter 'shops' .* the name of a shipped adapter \(shop\)"):
        load_adapter("shops", CONFIG)


def test_the_models_name_and_fingerprint_have_the_adapters(tmp_path: Path, chatml_hf: Any) -> None:
    hf = HF | {"vocab_size": 267}  # the tokenizer's
    base(tmp_path / "tiny", hf)
    chatml_hf.save_pretrained(tmp_path / "tiny")
    plain(tmp_path / "one")
    plain(tmp_path / "two", lora_alpha=3)
    peft_folder.write_peft(tmp_path / "three", peft_folder.factors(WEIGHTS, dict.fromkeys(ALL, 3), seed=1))
    alone = load_model(str(tmp_path / "tiny"))
    models = [load_model(str(tmp_path / "tiny"), adapter=str(tmp_path / name)) for name in ("one", "two", "three")]
    assert [model.name for model in models] == ["tiny + one", "tiny + two", "tiny + three"]
    assert len({model.fingerprint for model in (alone, *models)}) == 4
    assert {model.base_fingerprint for model in models} == {alone.base_fingerprint}
    assert load_model(str(tmp_path / "tiny"), dtype=jnp.bfloat16).base_fingerprint == alone.base_fingerprint
    assert alone.adapter is None
    q_proj = [np.asarray(model.params["layers"]["q_proj"]) for model in (alone, *models)]
    np.testing.assert_allclose(q_proj[1] - q_proj[0], 2 * (q_proj[2] - q_proj[0]), atol=1e-5)

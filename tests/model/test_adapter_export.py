"""An adapter that is written reads back as it was, and says what it was trained for."""

import json
import os
from pathlib import Path
from typing import Any

import checkpoints
import jax.numpy as jnp
import numpy as np
import peft_folder
import pytest
from full_disk import full_disk
from safetensors.numpy import load_file

from rcjax.disk import DiskError
from rcjax.model.adapter import AdaptedSource, load_adapter
from rcjax.model.adapter_export import write_adapter
from rcjax.model.adapter_origin import AdapterOrigin
from rcjax.model.hf_config import config_from_hf
from rcjax.model.load_error import ModelLoadError
from rcjax.model.safetensors_folder import SafetensorsFolder
from rcjax.prompt import Layout, Scoring
from rcjax.prompt.template import load_template

SHOP, COMPACT = load_template("shop"), load_template("compact")
ORIGIN = AdapterOrigin.of(SHOP, Layout.PARALLEL, Scoring.ANCHOR, base="a1b2", num_layers=3)
FAMILIES = ["llama3", "qwen2", "qwen3", "mistral"]
ARMS = {(Layout.PARALLEL, Scoring.ANCHOR), (Layout.SEQUENTIAL, Scoring.LABEL)}


def adapters(family: str, ranks: dict[str, int]) -> dict[str, dict[str, np.ndarray]]:
    """As training has them: layers stacked, inputs before outputs."""
    rng, weights = np.random.default_rng(3), checkpoints.tensors(checkpoints.CONFIGS[family])
    made = {}
    for kind, rank in ranks.items():
        size_out, size_in = weights[f"{peft_folder.modules(weights, kind)[0]}.weight"].shape
        made[kind] = {
            "down": (0.3 * rng.standard_normal((checkpoints.NUM_LAYERS, size_in, rank))).astype(np.float32),
            "up": (0.3 * rng.standard_normal((checkpoints.NUM_LAYERS, rank, size_out))).astype(np.float32),
        }
    return made


def written(folder: Path, family: str = "llama3", ranks: dict[str, int] | None = None, **more: Any) -> Path:
    """On every projection, of rank 2 and alpha 6."""
    made = adapters(family, ranks or dict.fromkeys(peft_folder.PROJECTIONS, 2))
    config = config_from_hf(checkpoints.CONFIGS[family])
    write_adapter(folder, config, made, 6.0, base="some/base", origin=ORIGIN, **more)
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_it_adds_what_was_written(tmp_path: Path, family: str) -> None:
    hf = checkpoints.CONFIGS[family]
    config, weights = config_from_hf(hf), checkpoints.tensors(hf)
    checkpoints.write_folder(tmp_path, hf, weights)
    ranks = {"q_proj": 2, "o_proj": 3, "down_proj": 3}
    adapter = load_adapter(str(written(tmp_path / "a", family, ranks)), config)
    source, made = AdaptedSource(SafetensorsFolder(tmp_path), adapter), adapters(family, ranks)
    for module in peft_folder.modules(weights):
        name, layer, kind = f"{module}.weight", int(module.split(".")[2]), module.split(".")[-1]
        expected = weights[name]
        if kind in ranks:
            product = made[kind]["down"][layer] @ made[kind]["up"][layer]
            expected = expected + 6.0 / ranks[kind] * product.T
        found = source.read(name, tuple(slice(0, size) for size in expected.shape))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_file_is_in_pefts_layout(tmp_path: Path, dtype: str) -> None:
    folder = written(tmp_path / "a", dtype=jnp.dtype(dtype))
    tensors = load_file(folder / "adapter_model.safetensors")
    weights = checkpoints.tensors(checkpoints.CONFIGS["llama3"])
    expected = peft_folder.factors(weights, dict.fromkeys(peft_folder.modules(weights), 2))
    assert {name: tensor.shape for name, tensor in tensors.items()} == {n: t.shape for n, t in expected.items()}
    assert {tensor.dtype.name for tensor in tensors.values()} == {dtype}
    config = json.loads((folder / "adapter_config.json").read_text())
    layers = {"layers_to_transform": [0, 1, 2], "layers_pattern": "layers"}
    expected_config = peft_folder.DEFAULTS | {"r": 2, "lora_alpha": 6, "lora_dropout": 0.0} | layers
    assert config == {key: expected_config[key] for key in config}
    modes = {os.stat(path).st_mode for path in folder.iterdir()}
    assert len(modes) == 1


def test_a_full_disk_leaves_the_adapter_that_is_there(tmp_path: Path) -> None:
    folder = written(tmp_path / "a")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with full_disk(2**12), pytest.raises(DiskError, match="a cannot be written: File too large"):
        written(folder, ranks={"q_proj": 40})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_it_says_what_it_was_trained_for(tmp_path: Path) -> None:
    adapter = load_adapter(str(written(tmp_path / "a")), config_from_hf(checkpoints.CONFIGS["llama3"]))
    assert adapter.origin == ORIGIN
    assert adapter.mismatches(SHOP, ARMS, "a1b2") == []
    (line,) = adapter.mismatches(COMPACT, ARMS, "a1b2")
    assert line == (
        f"adapter 'a' was trained with template shop v{SHOP.version}, and the settings' is compact v{COMPACT.version}"
    )
    (line,) = adapter.mismatches(SHOP.model_copy(update={"instruction": "Rank."}), ARMS, "a1b2")
    assert line.endswith(f"template shop v{SHOP.version}, and the settings' is shop v{SHOP.version}, of other texts")
    (line,) = adapter.mismatches(SHOP, {(Layout.PARALLEL, Scoring.LABEL), (Layout.SEQUENTIAL, Scoring.ANCHOR)}, "a1b2")
    assert line == "adapter 'a' was trained for layout parallel with scoring anchor, which nothing here asks for"
    (line,) = adapter.mismatches(SHOP, ARMS, "c3d4")
    assert line.startswith("adapter 'a' was trained on another base")
    (tmp_path / "a" / "rcjax.json").unlink()
    silent = load_adapter(str(tmp_path / "a"), config_from_hf(checkpoints.CONFIGS["llama3"]))
    assert silent.mismatches(COMPACT, set(), "") == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"format": "rcjax.adapter.9"}, r"rcjax\.json: format='rcjax.adapter.9' is not 'rcjax.adapter.1'"),
        ({"layout": "zigzag"}, "layout='zigzag' must be one of sequential, parallel"),
        ({"scoring": None}, "scoring"),
        ({"base": 3}, "base=3 must be a text"),
    ],
)
def test_an_origin_that_cannot_be_read(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    path = written(tmp_path / "a") / "rcjax.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelLoadError, match=named):
        load_adapter(str(tmp_path / "a"), config_from_hf(checkpoints.CONFIGS["llama3"]))

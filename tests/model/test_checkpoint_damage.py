"""Any change of bytes in a checkpoint's files gives a model or a ModelLoadError that names the file."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import checkpoints
import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from transformers import PreTrainedTokenizerFast

from rcjax.model.gguf import GgufFile
from rcjax.model.gguf_tokenizer import tokenizer_from_gguf
from rcjax.model.hf_config import config_from_hf, read_config
from rcjax.model.load_error import ModelLoadError
from rcjax.model.safetensors_folder import SafetensorsFolder
from rcjax.model.tokenizer import Tokenizer
from rcjax.model.tokenizer_folder import read_tokenizer

CONFIG = checkpoints.CONFIGS["llama3"] | {"vocab_size": 267}
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, new_tokenizer: Callable[[], PreTrainedTokenizerFast]) -> Path:
    """A whole checkpoint, its weights in two shards."""
    path = tmp_path_factory.mktemp("valid")
    Tokenizer(new_tokenizer()).save(path)
    return checkpoints.write_folder(path, CONFIG, checkpoints.tensors(CONFIG), num_shards=2)


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory, new_tokenizer: Callable[[], PreTrainedTokenizerFast]) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "m.gguf"
    writer = checkpoints.gguf_writer(path, CONFIG, checkpoints.tensors(CONFIG))
    hf = new_tokenizer()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(hf.convert_ids_to_tokens(list(range(267))))
    writer.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * 264)
    writer.add_token_merges(["t h", "th e", "Ġ the", "i m", "e n", "en d", "< |", "| >"])
    writer.add_eos_token_id(2)
    writer.add_chat_template(hf.chat_template)
    checkpoints.finish(writer)
    return path


@st.composite
def mutations(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """Cuts a file, or puts other bytes in the place of some."""
    share = draw(st.floats(0, 1))
    length = draw(st.sampled_from([0, 1, 1, 8, 100]))
    new = draw(
        st.binary(max_size=8)
        | st.sampled_from([b"null", b"-1", b'"x"', b"[]", b"{}", b"1e999", b"NaN", b"\xef\xbb\xbf", b"\xff" * 8])
    )
    cut = draw(st.booleans())

    def mutate(content: bytes) -> bytes:
        at = int(share * len(content))
        return content[:at] if cut else content[:at] + new + content[at + length :]

    return mutate


def read_by_name(folder: Path, name: str) -> None:
    if name == "config.json":
        fields = read_config(folder)
        config_from_hf(fields.values, fields.file)
    elif "safetensors" in name:
        source = SafetensorsFolder(folder)
        for tensor in source.names():
            source.read(tensor, tuple(slice(0, size) for size in source.shape(tensor)))
    else:
        tokenizer = read_tokenizer(folder)
        tokenizer.chat_frame("Rank.")
        tokenizer.encode("the end <|im_end|>")


def refusal(read: Callable[[], None]) -> str | None:
    """The message of a ModelLoadError, None without one; any other exception fails the test."""
    try:
        read()
    except ModelLoadError as error:
        return error.message
    return None


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        INDEX,
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
        "model-00001-of-00002.safetensors",
    ],
)
@settings(max_examples=60, deadline=None)
@given(mutate=mutations())
def test_changed_bytes_are_read_or_named(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, name: str, mutate: Callable[[bytes], bytes]
) -> None:
    broken = tmp_path_factory.mktemp("broken")
    for file in folder.iterdir():
        os.link(file, broken / file.name)
    (broken / name).unlink()
    content = (folder / name).read_bytes()
    if name.endswith(".safetensors"):  # the header is what steers; numbers are numbers
        header = 8 + int.from_bytes(content[:8], "little")
        (broken / name).write_bytes(mutate(content[:header]) + content[header:])
    else:
        (broken / name).write_bytes(mutate(content))
    message = refusal(lambda: read_by_name(broken, name))
    assert message is None or (str(broken) in message and "\n" not in message)
    shutil.rmtree(broken)


@settings(max_examples=100, deadline=None)
@given(mutate=mutations())
def test_changed_bytes_of_a_gguf_header_are_read_or_named(
    gguf_file: Path, tmp_path_factory: pytest.TempPathFactory, mutate: Callable[[bytes], bytes]
) -> None:
    content = gguf_file.read_bytes()
    header = min(int(tensor.data_offset) for tensor in gguf.GGUFReader(gguf_file).tensors)
    broken = tmp_path_factory.mktemp("broken") / "m.gguf"
    broken.write_bytes(mutate(content[:header]) + content[header:])

    def read() -> None:
        file = GgufFile(broken)
        tokenizer_from_gguf(file).chat_frame("Rank.")
        for tensor in file.names():
            file.shape(tensor)

    message = refusal(read)
    assert message is None or (str(broken) in message and "\n" not in message)
    shutil.rmtree(broken.parent)


def test_what_is_not_changed_is_read(folder: Path, gguf_file: Path) -> None:
    """Or the tests above could pass by refusing everything."""
    for name in ("config.json", "tokenizer.json", INDEX):
        read_by_name(folder, name)
    file = GgufFile(gguf_file)
    assert tokenizer_from_gguf(file).vocab_size == file.config.vocab_size == 267


@pytest.mark.parametrize(
    ("index", "named"),
    [
        ({}, "lacks weight_map, which must say which file has each tensor"),
        ({"weight_map": []}, r"weight_map=\[\] must be an object"),
        ({"weight_map": {"a": 3}}, "weight_map: a=3 must be a text"),
        ({"weight_map": {"a": "model-00001-of-00002.safetensors"}}, "weight_map has a in model-00001-of-00002"),
    ],
)
def test_an_index_of_another_shape_is_named(folder: Path, tmp_path: Path, index: object, named: str) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / INDEX).write_text(json.dumps(index))
    with pytest.raises(ModelLoadError, match=named) as raised:
        SafetensorsFolder(tmp_path)
    assert str(tmp_path / INDEX) in raised.value.message


def test_a_tensor_in_two_shards_is_named(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    first, second = sorted(tmp_path.glob("*.safetensors"))
    name = min(load_file(first))
    checkpoints.save_file(load_file(second) | {name: np.zeros(1, np.float32)}, second)
    with pytest.raises(ModelLoadError, match=rf"{second.name}: {name} is in {first.name} too"):
        SafetensorsFolder(tmp_path)


@pytest.mark.parametrize("name", ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"])
def test_a_part_of_a_split_gguf_file_is_refused_by_name(gguf_file: Path, tmp_path: Path, name: str) -> None:
    shutil.copy(gguf_file, tmp_path / name)
    with pytest.raises(ModelLoadError, match=rf"{name} is one of 2 parts of a split GGUF file.*--merge"):
        GgufFile(tmp_path / name)


def test_a_split_gguf_file_of_another_name_is_refused_too(tmp_path: Path) -> None:
    path = tmp_path / "first.gguf"
    writer = checkpoints.gguf_writer(path, CONFIG, checkpoints.tensors(CONFIG))
    writer.add_uint16("split.count", 3)
    checkpoints.finish(writer)
    with pytest.raises(ModelLoadError, match=r"first\.gguf is one of 3 parts"):
        GgufFile(path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda w: w.add_float32("llama.rope.scaling.factor", float("nan")), "factor=nan must be a finite number"),
        (lambda w: w.add_uint32("llama.rope.scaling.type", 3), "rope.scaling.type=3 must be a text"),
        (lambda w: w.add_array("llama.expert_count", [1, 2]), r"expert_count=\[1, 2\] is not supported"),
    ],
)
def test_gguf_metadata_of_another_type_is_named(tmp_path: Path, change: Callable, named: str) -> None:
    path = tmp_path / "m.gguf"
    writer = checkpoints.gguf_writer(path, CONFIG, checkpoints.tensors(CONFIG))
    change(writer)
    checkpoints.finish(writer)
    with pytest.raises(ModelLoadError, match=named) as raised:
        GgufFile(path)
    assert str(path) in raised.value.message

"""The tokenizer that a GGUF file describes, against the one that it was made from."""

import json
from pathlib import Path
from typing import Any

import checkpoints
import gguf
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rcjax.model.gguf import GgufFile
from rcjax.model.gguf_tokenizer import tokenizer_from_gguf
from rcjax.model.load_error import ModelLoadError
from rcjax.model.tokenizer import Tokenizer


@pytest.fixture
def chatml(chatml_hf: PreTrainedTokenizerFast) -> Tokenizer:
    return Tokenizer(chatml_hf)


def test_gguf_byte_level_equals_its_source(
    tmp_path: Path, chatml: Tokenizer, chatml_hf: PreTrainedTokenizerFast
) -> None:
    path = tmp_path / "m.gguf"
    writer = checkpoints.gguf_writer(
        path, checkpoints.CONFIGS["qwen2"], checkpoints.tensors(checkpoints.CONFIGS["qwen2"])
    )
    tokens = chatml_hf.convert_ids_to_tokens(list(range(chatml.vocab_size)))
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([control if i < 3 else normal for i in range(len(tokens))])
    writer.add_token_merges(["t h", "th e", "Ġ the", "i m", "e n", "en d", "< |", "| >"])
    writer.add_eos_token_id(2)
    writer.add_eot_token_id(0)
    writer.add_chat_template(chatml_hf.chat_template)
    checkpoints.finish(writer)
    loaded = tokenizer_from_gguf(GgufFile(path))
    for allow_special in (True, False):
        text = "the end<|im_end|> the\n émigré 123"
        ours, theirs = (t.encode(text, allow_special=allow_special).tolist() for t in (loaded, chatml))
        assert ours == theirs
    assert loaded.chat_frame("Rank.") == chatml.chat_frame("Rank.")
    assert (loaded.bos_ids.size, loaded.eos_ids, loaded.vocab_size) == (0, {0, 2}, chatml.vocab_size)


@pytest.mark.parametrize(
    ("pre", "splitters"),
    [
        ("gpt-2", [pre_tokenizers.ByteLevel(add_prefix_space=False)]),
        ("smollm", [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]),
    ],
)
def test_gguf_words_are_split_as_in_tokenizer_json(
    tmp_path: Path, chatml_hf: PreTrainedTokenizerFast, pre: str, splitters: list[Any]
) -> None:
    """The merges know "12" as one token, which a splitter of digits never lets come about."""
    backend = Backend.from_str(chatml_hf.backend_tokenizer.to_str())
    spec = json.loads(backend.to_str())
    spec["model"]["vocab"]["12"] = len(spec["model"]["vocab"])
    spec["model"]["merges"].append(["1", "2"])
    backend = Backend.from_str(json.dumps(spec))
    backend.pre_tokenizer = pre_tokenizers.Sequence(splitters)
    path = tmp_path / "m.gguf"
    config = checkpoints.CONFIGS["qwen2"]
    writer = checkpoints.gguf_writer(path, config, checkpoints.tensors(config))
    vocab = backend.get_vocab()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(sorted(vocab, key=vocab.__getitem__))
    writer.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (len(vocab) - 3))
    writer.add_token_merges([" ".join(merge) for merge in spec["model"]["merges"]])
    checkpoints.finish(writer)
    text = "the 123 12 then\n12"
    ids = tokenizer_from_gguf(GgufFile(path)).encode(text).tolist()
    assert ids == backend.encode(text, add_special_tokens=False).ids
    assert (vocab["12"] in ids) == (pre == "gpt-2")


@pytest.mark.parametrize(("model", "pre", "named"), [("bert", "gpt-2", "'bert'"), ("gpt2", "tekken", "'tekken'")])
def test_gguf_tokenizer_that_is_not_known_is_refused(tmp_path: Path, model: str, pre: str, named: str) -> None:
    path = tmp_path / "m.gguf"
    config = checkpoints.CONFIGS["llama2"]
    writer = checkpoints.gguf_writer(path, config, checkpoints.tensors(config))
    writer.add_tokenizer_model(model)
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(["a", "b", "ab"])
    writer.add_token_types([1, 1, 1])
    writer.add_token_merges(["a b"])
    checkpoints.finish(writer)
    with pytest.raises(ModelLoadError, match=named):
        tokenizer_from_gguf(GgufFile(path))

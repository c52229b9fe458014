"""A tokenizer from the metadata of a GGUF file."""

from typing import Any

import gguf
import tokenizers
from tokenizers import AddedToken, Regex, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from rcjax.model.gguf import GgufFile
from rcjax.model.load_error import ModelLoadError
from rcjax.model.tokenizer import Tokenizer

# How byte-level tokenizers cut text into words; the names are GGUF's `tokenizer.ggml.pre`.
_LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2_WORDS = _LLAMA3_WORDS.replace(r"\p{N}{1,3}", r"\p{N}")
_LLAMA3_NAMES = ("llama-bpe", "llama3", "llama-v3")


def tokenizer_from_gguf(file: GgufFile) -> Tokenizer:
    """Builds the tokenizer that the file describes (`gpt2` byte-level or `llama` SentencePiece BPE).

    Raises ModelLoadError for other kinds, and for a word splitter (`tokenizer.ggml.pre`) that is not known here.
    """
    kind = file.metadata("tokenizer.ggml.model")
    if kind == "gpt2":
        backend = _byte_level(file)
    elif kind == "llama":
        backend = _sentencepiece(file)
    else:
        raise ModelLoadError(f"{file.path}: tokenizer {kind!r} is not supported; use gpt2 or llama")
    tokens, types = file.metadata("tokenizer.ggml.tokens"), file.metadata("tokenizer.ggml.token_type")
    for add, token_type in (
        (backend.add_special_tokens, gguf.TokenType.CONTROL),
        (backend.add_tokens, gguf.TokenType.USER_DEFINED),
    ):
        added = [token for token, of_type in zip(tokens, types, strict=True) if of_type == token_type]
        add([AddedToken(token, normalized=False) for token in added])
    names = {name: _special(file, name, tokens) for name in ("bos", "eos", "unknown", "padding")}
    if _adds_bos(file, kind) and names["bos"] is not None:
        bos_id = file.metadata("tokenizer.ggml.bos_token_id")
        backend.post_processor = processors.TemplateProcessing(
            single=f"{names['bos']} $A", special_tokens=[(names["bos"], bos_id)]
        )
    hf = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=names["bos"],
        eos_token=names["eos"],
        unk_token=names["unknown"],
        pad_token=names["padding"],
        clean_up_tokenization_spaces=False,
    )
    hf.chat_template = file.metadata("tokenizer.chat_template")
    ends = (file.metadata(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom"))
    return Tokenizer(hf, eos_ids=[end for end in ends if end is not None])


def _special(file: GgufFile, name: str, tokens: list[str]) -> str | None:
    token_id = file.metadata(f"tokenizer.ggml.{name}_token_id")
    return None if token_id is None else tokens[token_id]


def _adds_bos(file: GgufFile, kind: str) -> bool:
    """Files that do not say follow llama.cpp: SentencePiece and Llama 3 begin with BOS."""
    default = kind == "llama" or file.metadata("tokenizer.ggml.pre") in _LLAMA3_NAMES
    return bool(file.metadata("tokenizer.ggml.add_bos_token", default))


def _byte_level(file: GgufFile) -> tokenizers.Tokenizer:
    vocab = {token: token_id for token_id, token in enumerate(file.metadata("tokenizer.ggml.tokens"))}
    merges = [tuple(merge.split(" ")) for merge in file.metadata("tokenizer.ggml.merges")]
    pre = file.metadata("tokenizer.ggml.pre", "default")
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    gpt2_words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    splitters: dict[str, list[Any]] = {
        "gpt-2": [gpt2_words],
        "smollm": [pre_tokenizers.Digits(individual_digits=True), gpt2_words],
        "qwen2": [_words(_QWEN2_WORDS), bytes_only],
        "deepseek-r1-qwen": [_words(_QWEN2_WORDS), bytes_only],
        **{name: [_words(_LLAMA3_WORDS), bytes_only] for name in _LLAMA3_NAMES},
    }
    if pre not in splitters:
        raise ModelLoadError(f"{file.path}: tokenizer.ggml.pre={pre!r} is none of {sorted(splitters)}")
    backend = tokenizers.Tokenizer(BPE(vocab, merges, ignore_merges=pre in _LLAMA3_NAMES))
    backend.pre_tokenizer = pre_tokenizers.Sequence(splitters[pre])
    backend.decoder = decoders.ByteLevel()
    if "qwen" in pre:
        backend.normalizer = normalizers.NFC()
    return backend


def _words(pattern: str) -> Any:
    return pre_tokenizers.Split(Regex(pattern), behavior="isolated")


def _sentencepiece(file: GgufFile) -> tokenizers.Tokenizer:
    """SentencePiece BPE stores scores, not merges: the best-scored piece that two neighbours form is merged first."""
    tokens, scores = file.metadata("tokenizer.ggml.tokens"), file.metadata("tokenizer.ggml.scores")
    types = file.metadata("tokenizer.ggml.token_type")
    vocab = {token: token_id for token_id, token in enumerate(tokens)}
    mergeable = {
        token: score
        for token, score, of_type in zip(tokens, scores, types, strict=True)
        if of_type == gguf.TokenType.NORMAL
    }
    merges = [
        (-score, cut, token[:cut], token[cut:])
        for token, score in mergeable.items()
        for cut in range(1, len(token))
        if token[:cut] in mergeable and token[cut:] in mergeable
    ]
    unknown = _special(file, "unknown", tokens)
    ranked = [(left, right) for _, _, left, right in sorted(merges)]
    backend = tokenizers.Tokenizer(BPE(vocab, ranked, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    prefix = file.metadata("tokenizer.ggml.add_space_prefix", True)
    scheme = "first" if prefix else "never"
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme, split=False)
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return backend

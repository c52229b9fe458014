"""A tokenizer from the metadata of a GGUF file."""

from typing import Any

import gguf
import tokenizers
from tokenizers import AddedToken, Regex, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from rcjax.model.fields import Fields, first_line, shown
from rcjax.model.gguf import GgufFile
from rcjax.model.load_error import ModelLoadError
from rcjax.model.tokenizer import Tokenizer
from rcjax.model.tokenizer_folder import LoadedTokenizer

_NAMES = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}  # ours, GGUF's
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
    fields = file.fields
    kind = fields.text("tokenizer.ggml.model")
    if kind not in ("gpt2", "llama"):
        raise fields.error("tokenizer.ggml.model", "is not supported; use gpt2 or llama")
    tokens = fields.texts("tokenizer.ggml.tokens")
    types = _per_token(fields, "tokenizer.ggml.token_type", len(tokens))
    try:
        backend = _byte_level(fields, tokens) if kind == "gpt2" else _sentencepiece(fields, tokens, types)
        _add_tokens(backend, tokens, types)
        names = {f"{name}_token": _special(fields, long, tokens) for name, long in _NAMES.items()}
        if _adds_bos(fields, kind) and names["bos_token"] is not None:
            bos_id = fields.integer("tokenizer.ggml.bos_token_id", minimum=0)
            backend.post_processor = processors.TemplateProcessing(
                single=[names["bos_token"], "$A"], special_tokens=[(names["bos_token"], bos_id)]
            )
    except ModelLoadError:
        raise
    except Exception as error:  # the tokenizers library raises bare Exceptions
        raise ModelLoadError(f"{file.path}: its tokenizer cannot be built: {first_line(error)}") from error
    ends = {f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom")}
    return Tokenizer(
        LoadedTokenizer(backend, _chat_templates(fields), **names),
        eos_ids=[fields.integer(end, minimum=0) for end in ends if fields.has(end)],
        file=str(file.path),
    )


def _per_token(fields: Fields, key: str, num_tokens: int) -> list[Any]:
    """A list of numbers with one for each token."""
    values = fields.values.get(key)
    if not isinstance(values, list) or len(values) != num_tokens or not all(isinstance(v, int | float) for v in values):
        raise fields.error(key, f"must have a number for each of the {num_tokens} tokens")
    return values


def _add_tokens(backend: tokenizers.Tokenizer, tokens: list[str], types: list[Any]) -> None:
    for add, token_type in (
        (backend.add_special_tokens, gguf.TokenType.CONTROL),
        (backend.add_tokens, gguf.TokenType.USER_DEFINED),
    ):
        added = [token for token, of_type in zip(tokens, types, strict=True) if of_type == token_type]
        add([AddedToken(token, normalized=False) for token in added])


def _special(fields: Fields, name: str, tokens: list[str]) -> str | None:
    key = f"tokenizer.ggml.{name}_token_id"
    if not fields.has(key):
        return None
    token_id = fields.integer(key, minimum=0)
    if token_id >= len(tokens):
        raise fields.error(key, f"must be below {len(tokens)}, the number of tokens")
    return tokens[token_id]


def _adds_bos(fields: Fields, kind: str) -> bool:
    """Files that do not say follow llama.cpp: SentencePiece and Llama 3 begin with BOS."""
    default = kind == "llama" or fields.values.get("tokenizer.ggml.pre") in _LLAMA3_NAMES
    return fields.flag("tokenizer.ggml.add_bos_token", default)


def _chat_templates(fields: Fields) -> dict[str, str]:
    """The templates by name; the first is "default"."""
    keys = {"default": "tokenizer.chat_template"} if fields.has("tokenizer.chat_template") else {}
    keys |= {name: f"tokenizer.chat_template.{name}" for name in fields.texts("tokenizer.chat_templates")}
    return {name: fields.text(key) for name, key in keys.items()}


def _byte_level(fields: Fields, tokens: list[str]) -> tokenizers.Tokenizer:
    merges: list[Any] = [tuple(merge.split(" ")) for merge in fields.texts("tokenizer.ggml.merges")]
    if wrong := [merge for merge in merges if len(merge) != 2]:
        raise ModelLoadError(f"{fields.file}: tokenizer.ggml.merges has {shown(' '.join(wrong[0]))}, which is no pair")
    pre = fields.text("tokenizer.ggml.pre", "default")
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
        raise fields.error("tokenizer.ggml.pre", f"is not supported; use {', '.join(sorted(splitters))}")
    vocab = {token: token_id for token_id, token in enumerate(tokens)}
    backend = tokenizers.Tokenizer(BPE(vocab, merges, ignore_merges=pre in _LLAMA3_NAMES))
    backend.pre_tokenizer = pre_tokenizers.Sequence(splitters[pre])
    backend.decoder = decoders.ByteLevel()
    if "qwen" in pre:
        backend.normalizer = normalizers.NFC()
    return backend


def _words(pattern: str) -> Any:
    return pre_tokenizers.Split(Regex(pattern), behavior="isolated")


def _sentencepiece(fields: Fields, tokens: list[str], types: list[Any]) -> tokenizers.Tokenizer:
    """SentencePiece BPE stores scores, not merges: the best-scored piece that two neighbours form is merged first."""
    scores = _per_token(fields, "tokenizer.ggml.scores", len(tokens))
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
    unknown = _special(fields, "unknown", tokens)
    ranked = [(left, right) for _, _, left, right in sorted(merges)]
    backend = tokenizers.Tokenizer(BPE(vocab, ranked, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    prefix = fields.flag("tokenizer.ggml.add_space_prefix", True)
    scheme = "first" if prefix else "never"
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme, split=False)
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return backend

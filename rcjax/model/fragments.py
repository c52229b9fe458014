"""A serialised tokenizer changed so that it encodes fragments: pieces in the middle of a text."""

import sys
from collections.abc import Set as AbstractSet
from typing import Any

from tokenizers import pre_tokenizers

from rcjax.model.load_error import ModelLoadError

_COMPOSING = ("NFC", "NFKC")  # normalizers that may write several characters as one
_MAX_COMPOSED = 4  # characters that become one: U+1F82 is an alpha and three marks


def max_token_chars(spec: dict[str, Any]) -> int:
    """No token stands for more characters of a text than this; `sys.maxsize` where there is no such bound."""
    if not _keeps_every_character(spec):
        return sys.maxsize
    longest = max(map(len, [*spec["model"]["vocab"], *(token["content"] for token in spec["added_tokens"])]))
    composes = any(step["type"] in _COMPOSING for step in _flat(spec["normalizer"]))
    return longest * _MAX_COMPOSED if composes else longest


def for_fragments(spec: dict[str, Any], file: str) -> dict[str, Any]:
    """A serialised tokenizer that adds nothing to a text: no BOS, no dummy space, and no space eaten in decoding.

    Raises ModelLoadError naming `file` for what is no BPE, or one that draws lots.
    """
    if spec["model"]["type"] != "BPE":
        raise ModelLoadError(f"{file}: tokenizer model {spec['model']['type']!r} is not supported; only 'BPE' is")
    if spec["model"]["dropout"]:
        dropout = spec["model"]["dropout"]
        raise ModelLoadError(f"{file}: {dropout=} gives a text other ids each time; set it to null")
    steps = {name: _flat(spec[name]) for name in ("normalizer", "pre_tokenizer", "decoder")}
    steps["normalizer"] = [step for step in steps["normalizer"] if step["type"] != "Prepend"]
    if any(step["type"] != "ByteLevel" for step in steps["decoder"]):
        steps["decoder"] = [step for step in steps["decoder"] if step["type"] != "Strip"]
    for step in (*steps["pre_tokenizer"], *steps["decoder"]):
        if step["type"] == "Metaspace":
            step["prepend_scheme"] = "never"
        elif step["type"] == "ByteLevel":
            step["add_prefix_space"] = False
    rebuilt = {name: _sequence(name, parts) for name, parts in steps.items()}
    return spec | rebuilt | {"post_processor": None, "truncation": None, "padding": None}


def _flat(step: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The parts of a normalizer, pre-tokenizer or decoder, sequences opened."""
    if step is None:
        return []
    if step["type"] != "Sequence":
        return [dict(step)]
    parts = next(value for value in step.values() if isinstance(value, list))
    return [flat for part in parts for flat in _flat(part)]


def _sequence(name: str, parts: list[dict[str, Any]]) -> dict[str, Any] | None:
    keys = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "decoder": "decoders"}
    return {"type": "Sequence", keys[name]: parts} if parts else None


def _keeps_every_character(spec: dict[str, Any]) -> bool:
    """Whether every character of a text ends up in a token, and no token swallows a run of any length."""
    steps = [*_flat(spec["normalizer"]), *_flat(spec["pre_tokenizer"])]
    if any(token["lstrip"] or token["rstrip"] for token in spec["added_tokens"]):
        return False
    if not all(map(_is_length_keeping, steps)):
        return False
    is_byte_level = any(step["type"] == "ByteLevel" for step in steps)
    single = pre_tokenizers.ByteLevel.alphabet() if is_byte_level else [f"<0x{byte:02X}>" for byte in range(256)]
    return (is_byte_level or spec["model"]["byte_fallback"]) and spec["model"]["vocab"].keys() >= set(single)


def _is_length_keeping(step: dict[str, Any]) -> bool:
    """Whether a normalizer or pre-tokenizer lets no character go, composing a few at most."""
    if step["type"] == "Replace":
        return len(step["pattern"].get("String", "")) == len(step["content"]) == 1
    if step["type"] == "Split":
        return bool(step["behavior"] == "Isolated")
    return step["type"] in ("Metaspace", "Digits", "ByteLevel", *_COMPOSING)


def without_tokens(spec: dict[str, Any], removed: AbstractSet[str]) -> dict[str, Any]:
    """The same tokenizer, unable to produce the removed tokens, not even by merging what spells them."""
    model = spec["model"]
    unknown = model["unk_token"]  # the model needs it, and no merge leads to it
    if unknown in removed and model["ignore_merges"]:
        unknown = None  # a word that spells it would become it
        model = model | {"unk_token": None}
    kept = {token: token_id for token, token_id in model["vocab"].items() if token not in removed or token == unknown}
    merges = [
        (left, right)
        for left, right in model["merges"]
        if left not in removed and right not in removed and left + right not in removed
    ]
    added = [token for token in spec["added_tokens"] if token["content"] not in removed]
    # An added token outside the vocabulary gets the next free id when read back; inside, it keeps its own.
    kept |= {token["content"]: token["id"] for token in added}
    return spec | {"model": model | {"vocab": kept, "merges": merges}, "added_tokens": added}

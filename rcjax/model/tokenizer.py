"""Text fragments to token ids and back, and the chat template as what comes before and after the user's text."""

import hashlib
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, SupportsInt

import jinja2
import numpy as np
import tokenizers
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from rcjax.model.load_error import ModelLoadError

_USER_TEXT = "\N{WHITE SQUARE}user-text\N{WHITE SQUARE}"  # stands for the user's text while a template renders
# Templates of Llama 3 print a date and those of Qwen3 open a chain of thought unless told otherwise. A prompt must
# not change overnight (its cached blocks would not be found), and a ranking is read from the first token.
_TEMPLATE_ARGUMENTS: dict[str, Any] = {"date_string": "26 Jul 2024", "enable_thinking": False}

_COMPOSING = ("NFC", "NFKC")  # normalizers that may write several characters as one
_MAX_COMPOSED = 4  # characters that become one: U+1F82 is an alpha and three marks


@dataclass(frozen=True, slots=True)
class ChatFrame:
    """What a chat template writes around the user's text; to be encoded with `allow_special=True`."""

    prefix: str
    suffix: str


class Tokenizer:
    """Encodes *fragments*: pieces of a prompt whose ids are concatenated.

    A fragment is read as the middle of a text. No BOS or EOS is added, and tokenizers in the manner of SentencePiece
    (Llama 2, Mistral) do not put their dummy space before it: `encode(a) + encode(b)` spells a + b. It equals
    `encode(a + b)` wherever the tokenizer would cut there by itself, as before a space that starts a word or at a line
    break. `chat_frame` puts the dummy space at the start of the prompt where the unmodified tokenizer has it.

    Text from users and items is encoded with `allow_special=False`: it then never becomes a control token, whatever it
    spells. Control tokens are the special ones and those that the chat template writes.
    """

    def __init__(self, hf: PreTrainedTokenizerFast, *, eos_ids: Iterable[int] = ()):
        self._hf = hf
        spec = _for_fragments(json.loads(hf.backend_tokenizer.to_str()))
        control = _control_tokens(spec, hf.chat_template or "")
        self._with_control = tokenizers.Tokenizer.from_str(json.dumps(spec))
        self._text_only = tokenizers.Tokenizer.from_str(json.dumps(_without_tokens(spec, control)))
        self.vocab_size: int = self._with_control.get_vocab_size(with_added_tokens=True)
        self.bos_ids = _bos_ids(hf)
        own_eos = () if hf.eos_token_id is None else (hf.eos_token_id,)
        self.eos_ids: frozenset[int] = frozenset((*own_eos, *eos_ids))
        canonical = json.dumps([spec, self.bos_ids.tolist()], sort_keys=True)
        self.fingerprint = hashlib.sha256(canonical.encode()).hexdigest()

    @classmethod
    def from_folder(cls, folder: Path) -> "Tokenizer":
        """Reads a Hugging Face folder: tokenizer files, chat template, and the EOS ids of its generation config."""
        try:
            hf: Any = _class_for(folder).from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise ModelLoadError(f"{folder} holds no tokenizer that transformers can read: {error}") from error
        if not hf.is_fast:
            raise ModelLoadError(f"{folder}: the tokenizer has no fast version; save its tokenizer.json beside it")
        return cls(hf, eos_ids=_configured_eos_ids(folder))

    def save(self, folder: Path) -> None:
        """Writes the unmodified tokenizer, its chat template and the EOS ids as `from_folder` reads them."""
        self._hf.save_pretrained(folder)
        ends = json.dumps({"eos_token_id": sorted(self.eos_ids)})
        (folder / "generation_config.json").write_text(ends, encoding="utf-8")

    def encode(self, text: str, *, allow_special: bool = False) -> np.ndarray:
        """Token ids of a fragment, int32 `[num_tokens]`; control tokens only with `allow_special`."""
        backend = self._with_control if allow_special else self._text_only
        return np.asarray(backend.encode(text, add_special_tokens=False).ids, np.int32)

    @cached_property
    def max_token_chars(self) -> int:
        """No token stands for more characters of a text than this; `sys.maxsize` where there is no such bound."""
        spec = json.loads(self._text_only.to_str())
        if not _keeps_every_character(spec):
            return sys.maxsize
        longest = max(map(len, [*spec["model"]["vocab"], *(token["content"] for token in spec["added_tokens"])]))
        composes = any(step["type"] in _COMPOSING for step in _flat(spec["normalizer"]))
        return longest * _MAX_COMPOSED if composes else longest

    def decode(self, ids: Iterable[SupportsInt]) -> str:
        """The text that ids spell, control tokens left out."""
        return self._with_control.decode([int(i) for i in ids], skip_special_tokens=True)

    def chat_frame(self, system: str) -> ChatFrame:
        """Splits the rendered chat template (one system and one user message) at the user's text.

        Where the template has no system role, `system` heads the user's text; without a template the prefix is `system`
        and an empty line, the suffix a line break. A BOS that the template writes is left to `bos_ids`.
        """
        if not self._hf.chat_template:
            return ChatFrame(prefix=self._text_start + system + "\n\n", suffix="\n")
        headed = [{"role": "user", "content": f"{system}\n\n{_USER_TEXT}"}]
        try:
            rendered = self._render([{"role": "system", "content": system}, {"role": "user", "content": _USER_TEXT}])
            if system.strip() not in rendered:
                rendered = self._render(headed)
        except jinja2.TemplateError:
            rendered = self._render(headed)
        if rendered.count(_USER_TEXT) != 1:
            raise ModelLoadError(f"the chat template must write the user's text once: {rendered!r}")
        prefix, suffix = rendered.split(_USER_TEXT)
        if self.bos_ids.size and prefix.startswith(self._hf.bos_token):
            prefix = prefix.removeprefix(self._hf.bos_token)
        return ChatFrame(self._text_start + prefix, suffix)

    @cached_property
    def _text_start(self) -> str:
        """The dummy space that the unmodified tokenizer puts at the start of a prompt, or nothing."""
        bos = self._hf.bos_token if self.bos_ids.size else ""
        start = self._hf.encode(f"{bos}a", add_special_tokens=False)[self.bos_ids.size :]
        return " " if start == self.encode(" a").tolist() else ""

    def _render(self, messages: list[dict[str, str]]) -> str:
        rendered = self._hf.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, **_TEMPLATE_ARGUMENTS
        )
        return str(rendered)


def _class_for(folder: Path) -> Any:
    """The general class where the folder asks for it: for some model types AutoTokenizer would rebuild the steps."""
    path = folder / "tokenizer_config.json"
    named = json.loads(path.read_text("utf-8")).get("tokenizer_class") if path.exists() else None
    return PreTrainedTokenizerFast if named in ("PreTrainedTokenizerFast", "TokenizersBackend") else AutoTokenizer


def _for_fragments(spec: dict[str, Any]) -> dict[str, Any]:
    """A serialised tokenizer that adds nothing to a text: no BOS, no dummy space, and no space eaten in decoding."""
    if spec["model"]["type"] != "BPE":
        raise ModelLoadError(f"tokenizer model {spec['model']['type']!r} is not supported; only 'BPE' is")
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


def _control_tokens(spec: dict[str, Any], chat_template: str) -> set[str]:
    return {token["content"] for token in spec["added_tokens"] if token["special"] or token["content"] in chat_template}


def _without_tokens(spec: dict[str, Any], removed: set[str]) -> dict[str, Any]:
    """The same tokenizer, unable to produce the removed tokens, not even by merging what spells them."""
    model = spec["model"]
    unknown = model["unk_token"]  # the model needs it, and no merge leads to it
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


def _bos_ids(hf: PreTrainedTokenizerFast) -> np.ndarray:
    """The BOS that the tokenizer puts before every text, if it does."""
    starts_with_bos = hf.bos_token_id is not None and hf.encode("a")[:1] == [hf.bos_token_id]
    return np.asarray([hf.bos_token_id] if starts_with_bos else [], np.int32)


def _configured_eos_ids(folder: Path) -> set[int]:
    eos_ids: set[int] = set()
    for name in ("config.json", "generation_config.json"):
        if (folder / name).exists():
            configured = json.loads((folder / name).read_text("utf-8")).get("eos_token_id")
            if configured is not None:
                eos_ids.update(configured if isinstance(configured, list) else [configured])
    return eos_ids

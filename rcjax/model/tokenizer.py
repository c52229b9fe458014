"""Text fragments to token ids and back, and the chat template as what comes before and after the user's text."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, SupportsInt, runtime_checkable

import numpy as np
import tokenizers

from rcjax.model.chat_template import ChatTemplate
from rcjax.model.control_tokens import control_tokens
from rcjax.model.fields import shown
from rcjax.model.fragments import for_fragments, max_token_chars, without_tokens
from rcjax.model.load_error import ModelLoadError

_USER_TEXT = "\N{WHITE SQUARE}user-text\N{WHITE SQUARE}"  # stands for the user's text while a template renders


@dataclass(frozen=True, slots=True)
class ChatFrame:
    """What a chat template writes around the user's text; to be encoded with `allow_special=True`."""

    prefix: str
    suffix: str


@runtime_checkable
class TokenizerParts(Protocol):
    """What a tokenizer is made of; `transformers.PreTrainedTokenizerFast` has it too.

    `chat_template` is one template, several by their names, or None. `bos_token`, `eos_token`, `unk_token` and
    `pad_token`, each a text or None, belong to it as well; transformers makes them up when they are asked for, which a
    protocol cannot check.
    """

    @property
    def backend_tokenizer(self) -> tokenizers.Tokenizer: ...

    @property
    def chat_template(self) -> Any: ...


class Tokenizer:
    """Encodes *fragments*: pieces of a prompt whose ids are concatenated.

    A fragment is read as the middle of a text. No BOS or EOS is added, and tokenizers in the manner of SentencePiece
    (Llama 2, Mistral) do not put their dummy space before it: `encode(a) + encode(b)` spells a + b. It equals
    `encode(a + b)` wherever the tokenizer would cut there by itself, as before a space that starts a word or at a line
    break. `chat_frame` puts the dummy space at the start of the prompt where the unmodified tokenizer has it.

    Text from users and items is encoded with `allow_special=False`: it then never becomes a control token, whatever it
    spells. `control_tokens.py` says which those are.
    """

    def __init__(
        self,
        parts: TokenizerParts,
        *,
        eos_ids: Iterable[int] = (),
        special: Iterable[str] = (),
        file: str = "the tokenizer",
        template_file: str | None = None,
    ):
        """`special` are control tokens that the backend does not know as such; `file` and `template_file` (the same
        unless given) are what errors name.
        """
        self._parts = parts
        self.file, self._template_file = file, template_file or file
        named = {f"{name}_token": getattr(parts, f"{name}_token") for name in ("bos", "eos", "unk", "pad")}
        self._named: dict[str, str] = {name: str(token) for name, token in named.items() if token is not None}
        self._templates = _templates(parts.chat_template, self._template_file, self._named)
        spec = for_fragments(json.loads(parts.backend_tokenizer.to_str()), file)
        control = control_tokens(spec, {*self._named.values(), *special}, list(self._templates.values()))
        self._with_control = _backend(spec, file)
        self._text_only = _backend(without_tokens(spec, control), file)
        vocabulary = self._with_control.get_vocab(with_added_tokens=True)
        self.vocab_size = len(vocabulary)
        self.max_id = max(vocabulary.values(), default=-1)
        self.bos_ids = self._bos_ids()
        own_eos = vocabulary.get(self._named.get("eos_token", ""))
        self.eos_ids: frozenset[int] = frozenset(eos_ids) | (frozenset() if own_eos is None else {own_eos})
        canonical = json.dumps([spec, self.bos_ids.tolist()], sort_keys=True)
        self.fingerprint = hashlib.sha256(canonical.encode()).hexdigest()

    def save(self, folder: Path) -> None:
        """Writes the unmodified tokenizer, its chat template and the EOS ids as `read_tokenizer` reads them.

        The class is one that transformers 4 and 5 both have.
        """
        chat_template: Any = {name: template.source for name, template in self._templates.items()}
        if set(chat_template) == {"default"}:
            chat_template = chat_template["default"]
        elif chat_template:  # a list is the form that all versions read
            chat_template = [{"name": name, "template": source} for name, source in chat_template.items()]
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **self._named}
        written = {
            "tokenizer.json": self._parts.backend_tokenizer.to_str(pretty=True),
            "tokenizer_config.json": json.dumps(
                config | ({"chat_template": chat_template} if chat_template else {}), indent=2
            ),
            "generation_config.json": json.dumps({"eos_token_id": sorted(self.eos_ids)}),
        }
        for name, text in written.items():
            (folder / name).write_text(text, encoding="utf-8")

    def encode(self, text: str, *, allow_special: bool = False) -> np.ndarray:
        """Token ids of a fragment, int32 `[num_tokens]`; control tokens only with `allow_special`."""
        backend = self._with_control if allow_special else self._text_only
        return np.asarray(backend.encode(text, add_special_tokens=False).ids, np.int32)

    @cached_property
    def max_token_chars(self) -> int:
        """No token stands for more characters of a text than this; `sys.maxsize` where there is no such bound."""
        return max_token_chars(json.loads(self._text_only.to_str()))

    def decode(self, ids: Iterable[SupportsInt]) -> str:
        """The text that ids spell, control tokens left out."""
        return self._with_control.decode([int(i) for i in ids], skip_special_tokens=True)

    def chat_frame(self, system: str) -> ChatFrame:
        """Splits the rendered chat template (one system and one user message) at the user's text.

        Where the template has no system role, `system` heads the user's text; without a template the prefix is `system`
        and an empty line, the suffix a line break. A BOS that the template writes is left to `bos_ids`.
        """
        if not self._templates:
            return ChatFrame(prefix=self._text_start + system + "\n\n", suffix="\n")
        if "default" not in self._templates:
            names = ", ".join(map(repr, self._templates))
            raise ModelLoadError(
                f"{self._template_file}: of chat templates {names} none is named 'default'; name one so"
            )
        template = self._templates["default"]
        headed = [{"role": "user", "content": f"{system}\n\n{_USER_TEXT}"}]
        try:
            rendered = template.render([{"role": "system", "content": system}, {"role": "user", "content": _USER_TEXT}])
            if system.strip() not in rendered:
                rendered = template.render(headed)
        except ModelLoadError:
            rendered = template.render(headed)
        if rendered.count(_USER_TEXT) != 1:
            raise ModelLoadError(
                f"{self._template_file}: a chat template must write the user's text once: {shown(rendered)}"
            )
        prefix, suffix = rendered.split(_USER_TEXT)
        if self.bos_ids.size:
            prefix = prefix.removeprefix(self._named["bos_token"])
        return ChatFrame(self._text_start + prefix, suffix)

    def _bos_ids(self) -> np.ndarray:
        """The BOS that the tokenizer puts before every text, if it does."""
        bos_id = self._with_control.token_to_id(self._named["bos_token"]) if "bos_token" in self._named else None
        starts = self._parts.backend_tokenizer.encode("a").ids[:1]
        return np.asarray([bos_id] if bos_id is not None and starts == [bos_id] else [], np.int32)

    @cached_property
    def _text_start(self) -> str:
        """The dummy space that the unmodified tokenizer puts at the start of a prompt, or nothing."""
        bos = self._named["bos_token"] if self.bos_ids.size else ""
        start = self._parts.backend_tokenizer.encode(f"{bos}a", add_special_tokens=False).ids[self.bos_ids.size :]
        return " " if start == self.encode(" a").tolist() else ""


def _templates(given: Any, file: str, variables: Mapping[str, str]) -> dict[str, ChatTemplate]:
    """The chat templates by name; a single one is named "default"."""
    sources = given if isinstance(given, Mapping) else {"default": given} if given else {}
    return {
        name: ChatTemplate(source, f"{file}: chat template {name!r}", variables) for name, source in sources.items()
    }


def _backend(spec: Mapping[str, Any], file: str) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_str(json.dumps(spec))
    except Exception as error:  # the library raises bare Exceptions
        raise ModelLoadError(f"{file}: the tokenizer cannot be changed to encode fragments: {error}") from error

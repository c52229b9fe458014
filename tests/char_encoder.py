"""A tokenizer whose ids can be read: one character, or one of a few whole words, is one token."""

import re
from dataclasses import dataclass, field

import numpy as np

from rcjax.prompt.template import Template

BOS = 1
FIRST_WORD = 0x110000  # beyond every character


@dataclass(frozen=True)
class Frame:
    prefix: str
    suffix: str


@dataclass
class CharEncoder:
    words: tuple[str, ...] = ()
    bos_ids: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))

    @property
    def max_token_chars(self) -> int:
        return max(map(len, ("x", *self.words)))

    def encode(self, text: str, *, allow_special: bool = False) -> np.ndarray:
        pattern = "|".join([*map(re.escape, self.words), "(?s:.)"])
        pieces = re.findall(pattern, text)
        ids = [FIRST_WORD + self.words.index(piece) if piece in self.words else ord(piece) for piece in pieces]
        return np.array(ids, np.int32)

    def decode(self, ids: np.ndarray) -> str:
        return "".join(self.words[i - FIRST_WORD] if i >= FIRST_WORD else chr(i) for i in map(int, ids))

    def chat_frame(self, system: str) -> Frame:
        return Frame(f"<s>{system}</s><u>", "</u><a>")


def small_fields() -> dict:
    """A template of short texts, as a YAML file would hold it."""
    return {
        "name": "small",
        "version": 1,
        "chat": False,
        "instruction": "INS",
        "history": {"open": "h:", "event": "{{ title }};", "empty": "none"},
        "item": "{{ title }}",
        "label": {
            "sequential": {"before_item": "{{ label }}=", "task": "?"},
            "parallel": {"after_item": "#{{ label }}", "task": "?!"},
        },
        "anchor": {
            "sequential": {"after_item": "~{{ label }}"},
            "parallel": {"after_item": "~"},
            "positive": "y",
            "negative": "n",
        },
    }


def small_template(**changes) -> Template:
    return Template.model_validate(small_fields() | changes)

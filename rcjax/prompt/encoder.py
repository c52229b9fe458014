"""What a prompt needs of a tokenizer."""

from collections.abc import Iterable
from typing import Protocol, SupportsInt, runtime_checkable

import numpy as np


@runtime_checkable
class ChatFrame(Protocol):
    @property
    def prefix(self) -> str: ...

    @property
    def suffix(self) -> str: ...


@runtime_checkable
class Encoder(Protocol):
    """What a prompt needs of a tokenizer (`rcjax.model.tokenizer.Tokenizer`)."""

    @property
    def bos_ids(self) -> np.ndarray: ...

    @property
    def max_token_chars(self) -> int:
        """No token stands for more characters of a text than this; `sys.maxsize` where there is no such bound."""
        ...

    def encode(self, text: str, *, allow_special: bool = False) -> np.ndarray: ...

    def decode(self, ids: Iterable[SupportsInt]) -> str: ...

    def chat_frame(self, system: str) -> ChatFrame: ...

"""Labels: what the answer names a candidate by."""

from collections.abc import Callable
from string import ascii_lowercase, ascii_uppercase

import numpy as np


def single_token_labels(encode: Callable[[str], np.ndarray], num_labels: int) -> tuple[tuple[str, ...], np.ndarray]:
    """Labels that are one token each, and these tokens: A to Z, then AA, AB, ..., then a to z.

    Digits would not do: many tokenizers split numbers, and 1, 10 and 11 then share their first token.
    """
    pairs = [a + b for a in ascii_uppercase for b in ascii_uppercase]
    found: dict[int, str] = {}
    for label in (*ascii_uppercase, *pairs, *ascii_lowercase):
        ids = encode(label)
        if len(ids) == 1:
            found.setdefault(int(ids[0]), label)
        if len(found) == num_labels:
            return tuple(found.values()), np.array(list(found), np.int32)
    raise ValueError(f"{num_labels=} exceeds the {len(found)} single-token labels that this tokenizer has")

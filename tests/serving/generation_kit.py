"""What tests of generation share."""

import time
from collections.abc import Callable

from rcjax.request import GeneratedPiece, GenerateResult


def joined(parts: list[GeneratedPiece | GenerateResult]) -> tuple[list[int], str, GenerateResult]:
    """All tokens, all text, and the end, which comes last and once."""
    *pieces, end = parts
    assert isinstance(end, GenerateResult)
    assert all(isinstance(piece, GeneratedPiece) for piece in pieces)
    return [one for piece in pieces for one in piece.token_ids], "".join(piece.text for piece in pieces), end


def until(is_true: Callable[[], bool]) -> None:
    for _ in range(6000):
        if is_true():
            return
        time.sleep(0.01)
    raise AssertionError("it never came true")

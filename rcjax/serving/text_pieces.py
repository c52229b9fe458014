"""From tokens as they come to the text that they spell, piece by piece."""

from collections.abc import Callable, Sequence

HALF_A_CHARACTER = "\N{REPLACEMENT CHARACTER}"  # what a decoder writes for bytes that are no whole character yet


class TextPieces:
    """The text of a growing sequence of tokens: all pieces together are what `decode` makes of all its tokens.

    A piece has whole characters only. A tokenizer decodes a token by what stands before it (a leading space goes
    at the start of a text), so that the last piece's tokens are decoded again with the new ones.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]):
        self._decode = decode
        self._context: list[int] = []  # the tokens of the last piece
        self._context_text = ""
        self._new: list[int] = []

    def push(self, token_ids: Sequence[int]) -> str:
        """What the tokens add, without the bytes of a character that is not whole yet."""
        self._new += token_ids
        text = self._decode([*self._context, *self._new])
        if text.endswith(HALF_A_CHARACTER):
            return ""
        return self._take(text)

    def rest(self) -> str:
        """What is left at the end, with a replacement character for bytes that never became a whole one."""
        return self._take(self._decode([*self._context, *self._new])) if self._new else ""

    def _take(self, text: str) -> str:
        piece = text[len(self._context_text) :]
        if piece:  # tokens that spell nothing, control tokens among them, are no context to go by
            self._context, self._new = self._new, []
            self._context_text = self._decode(self._context)
        return piece

"""Instance-specific fields: the tokens of a history that no other history can stand in for."""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Int32

_DATE_WORD = re.compile(
    r"""(?<![^\W_])(
        jan(uary)? | feb(ruary)? | mar(ch)? | apr(il)? | may | june? | july? | aug(ust)? | sept?(ember)? | oct(ober)?
        | nov(ember)? | dec(ember)? | mon(day)? | tue(s(day)?)? | wed(nesday)? | thu(r(s(day)?)?)? | fri(day)?
        | sat(urday)? | sun(day)? | today | yesterday | tomorrow
    )(?![^\W_])""",
    re.IGNORECASE | re.VERBOSE,
)
_OUTER_PUNCTUATION = re.compile(r"^\W+|\W+$")


@dataclass(frozen=True, slots=True, eq=False)
class InstanceFields:
    """Tells from token text what must be computed fresh: ids, numbers, dates, delimiters.

    - a token without a letter: punctuation, whitespace, line breaks, digits, control tokens, parts of characters;
    - every token of a *word* (what whitespace separates) that holds a digit: amounts, model numbers, dates, ids such as
      `B001MA0QY2`, of which some tokens are letters only;
    - every token of a word that is or contains an English date word, or is one of `item_ids`.

    Errs on the side of fresh (`may`, a whole line of a script without spaces that holds one digit): a token too many
    costs time, one too few gives a user another user's number. Numbers spelt in words count as text. `decode` gives
    the text of one token with its spaces.
    """

    decode: Callable[[list[int]], str]
    item_ids: Collection[str] = frozenset()
    _texts: dict[int, str] = field(default_factory=dict, init=False)

    def mask(self, token_ids: Int32[np.ndarray, "T"]) -> Bool[np.ndarray, "T"]:
        """Which tokens of a history are instance-specific."""
        texts = [self._text(int(token)) for token in token_ids]
        fresh = np.array([not any(map(str.isalpha, text)) for text in texts], bool)
        for first, end in _words(texts):
            if self._is_specific("".join(texts[first:end])):
                fresh[first:end] = True
        return fresh

    def _text(self, token: int) -> str:
        text = self._texts.get(token)
        if text is None:
            text = self._texts[token] = self.decode([token])
        return text

    def _is_specific(self, word: str) -> bool:
        if any(map(str.isnumeric, word)) or _DATE_WORD.search(word):
            return True
        return bool(self.item_ids) and (
            word.strip() in self.item_ids or _OUTER_PUNCTUATION.sub("", word) in self.item_ids
        )


def _words(texts: list[str]) -> list[tuple[int, int]]:
    """Ranges of tokens that make up a word each: a token that starts with whitespace, or follows some, starts one."""
    starts = [i for i, text in enumerate(texts) if i == 0 or text[:1].isspace() or texts[i - 1][-1:].isspace()]
    return list(pairwise([*starts, len(texts)]))

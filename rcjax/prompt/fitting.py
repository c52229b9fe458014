"""The tokens of items and histories, within limits that are checked before a text is tokenised."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

import numpy as np
from jaxtyping import Int32

from rcjax.catalog.types import Event, Item
from rcjax.errors import InvalidRequestError
from rcjax.prompt.builder import PromptBuilder, TokenIds

Thing = TypeVar("Thing", Item, Event)

# When a history outgrows its limit, its oldest events go until this share of the limit is left, so that the next
# events extend the cached KV instead of shifting it again.
KEPT_SHARE = 0.75


@dataclass(frozen=True, slots=True, eq=False)
class FittedHistory:
    """The newest events of a history that fit its limit, how many tokens each has, and the history's tokens."""

    events: tuple[Event, ...]
    event_lens: tuple[int, ...]
    token_ids: Int32[np.ndarray, "S"]


class FittingTexts:
    """Tokenises items and histories for one builder. Any thread may call it."""

    def __init__(self, builder: PromptBuilder, max_item_tokens: int, max_history_tokens: int):
        self._builder = builder
        self._max_item_tokens = max_item_tokens
        self._max_history_tokens = max_history_tokens
        self._num_empty = len(builder.join_events([]))
        self._num_around = len(builder.join_events([np.zeros(0, np.int32)]))
        if self._num_empty > max_history_tokens:
            raise ValueError(
                f"an empty history has {self._num_empty} tokens (template fields history.open and history.empty), over "
                f"{max_history_tokens=}"
            )

    def item_ids(self, item: Item, field: str) -> TokenIds:
        """An item's tokens; `InvalidRequestError` names `field` where there are none or too many."""
        text = self._rendered(self._builder.template.render_item, item, field)
        ids = self._encode(text, self._max_item_tokens)
        if ids is None or not 1 <= len(ids) <= self._max_item_tokens:
            num = f"more than {self._max_item_tokens}" if ids is None else len(ids)
            raise InvalidRequestError(
                f"the text of item {item.item_id!r} has {num} tokens; 1 to {self._max_item_tokens} are allowed: "
                "shorten its texts",
                field=field,
            )
        return ids

    def history(self, events: Sequence[Event], field: str, known: Sequence[TokenIds] = ()) -> FittedHistory:
        """A history of the newest events that fit; all of them, if they do.

        `known` are the tokens of the first events, where the caller has these. Events older than those that can fit are
        not tokenised. `InvalidRequestError` names `field` where the newest event alone does not fit.
        """
        limit = self._max_history_tokens
        newest: list[TokenIds] = []
        num_tokens = self._num_around
        for ids in self._newest_first(events, field, known):
            if ids is None or num_tokens + len(ids) > limit:
                if not newest:
                    raise self._too_long(ids, field)
                newest = self._kept(newest)
                break
            newest.append(ids)
            num_tokens += len(ids)
        newest.reverse()
        kept = tuple(events[len(events) - len(newest) :])
        return FittedHistory(kept, tuple(map(len, newest)), self._builder.join_events(newest))

    def _kept(self, newest: Sequence[TokenIds]) -> list[TokenIds]:
        """Those of a history that is too long which stay: `KEPT_SHARE` of the limit, and the newest in any case."""
        left = int(self._max_history_tokens * KEPT_SHARE) - self._num_empty
        kept = []
        for ids in newest:
            left -= len(ids)
            if left < 0:
                break
            kept.append(ids)
        return kept or [newest[0]]

    def _newest_first(
        self, events: Sequence[Event], field: str, known: Sequence[TokenIds]
    ) -> Iterator[TokenIds | None]:
        """Each event's tokens, from the newest; None for one that has more than a history may have."""
        new = (
            self._encode(self._rendered(self._builder.template.render_event, event, field), self._max_history_tokens)
            for event in reversed(events[len(known) :])
        )
        return chain(new, reversed(known))

    def _rendered(self, render: Callable[[Thing], str], thing: Thing, field: str) -> str:
        try:
            return render(thing)
        except Exception as error:  # a template may fail in as many ways as a program
            name, reason = self._builder.template.name, " ".join(str(error).split())
            raise InvalidRequestError(
                f"template {name!r} fails on {thing.item_id!r}: {type(error).__name__}: {reason}; mend the template",
                field=field,
            ) from error

    def _encode(self, text: str, max_tokens: int) -> TokenIds | None:
        """The text's tokens; None for a text so long that it certainly has more than `max_tokens`."""
        if len(text) > max_tokens * self._builder.max_token_chars:
            return None
        return self._builder.encode(text)

    def _too_long(self, newest: TokenIds | None, field: str) -> InvalidRequestError:
        limit = self._max_history_tokens
        num = f"more than {limit}" if newest is None else self._num_around + len(newest)
        return InvalidRequestError(
            f"the newest event alone makes {num} tokens; a history may have {limit}: shorten its texts", field=field
        )

"""The library: the items and users that an engine knows, as blocks, with the limits checked."""

import hashlib
from collections.abc import Sequence

import numpy as np

from rcjax.catalog.types import Event, Item, User
from rcjax.errors import InvalidRequestError, NotFoundError
from rcjax.prompt import Block, BlockKind, PromptBuilder
from rcjax.request import RecommendRequest

# When a history outgrows its limit, its oldest events go until this share of the limit is left, so that the next
# events extend the cached KV instead of shifting it again.
KEPT_SHARE = 0.75


class Library:
    """Items and users by id, and the blocks they become.

    A block's owner is the id; content that came inline and is not what the library holds gets an owner made of
    its content, so that it never displaces a block of the library.
    """

    item_kind = BlockKind.ITEM
    history_kind = BlockKind.HISTORY

    def __init__(self, builder: PromptBuilder, max_candidates: int, max_item_tokens: int, max_history_tokens: int):
        self.items: dict[str, Item] = {}
        self._events: dict[str, tuple[Event, ...]] = {}  # those that the history block holds
        self._builder = builder
        self._max_candidates = max_candidates
        self._max_item_tokens = max_item_tokens
        self._max_history_tokens = max_history_tokens

    @property
    def num_users(self) -> int:
        return len(self._events)

    @property
    def user_ids(self) -> list[str]:
        return list(self._events)

    def checked_item(self, item: Item, field: str, owner: str = "") -> Block:
        """The item's block; `InvalidRequestError` names `field` and the limit that is exceeded."""
        _check_id(item.item_id, f"{field}.item_id")
        block = self._builder.item_block(item, owner)
        if not 1 <= len(block) <= self._max_item_tokens:
            raise InvalidRequestError(
                f"the text of item {item.item_id!r} has {len(block)} tokens; 1 to {self._max_item_tokens} are allowed",
                field=field,
            )
        return block

    def recent_events(self, user: User) -> tuple[Event, ...]:
        """A user's events as the library would keep them: the oldest beyond the limit are let go."""
        _check_id(user.user_id, "user.user_id")
        return self._recent(user.events, "user.events")

    def with_appended(self, user_id: str, events: Sequence[Event]) -> tuple[Event, ...]:
        """A known user's events with `events` appended, as the library would keep them; changes nothing."""
        return self._recent((*self._known(user_id), *events), "events")

    def store_events(self, user_id: str, events: tuple[Event, ...]) -> None:
        """Adds or replaces a user, whose events are those of `recent_events` or `with_appended`."""
        self._events[user_id] = events

    def events_block(self, user_id: str, events: Sequence[Event]) -> Block:
        return self._builder.history_block(self._builder.history_ids(events), user_id)

    def delete_user(self, user_id: str) -> bool:
        return self._events.pop(user_id, None) is not None

    def history(self, user_id: str) -> Block:
        """The block of a known user's history; `NotFoundError` for another."""
        return self.events_block(user_id, self._known(user_id))

    def request_history(self, request: RecommendRequest) -> Block:
        """The history that a request is ranked for: its own, where given, else the stored one."""
        if request.history is None:
            if not request.user_id:
                raise InvalidRequestError("a request needs a user_id or a history", field="user_id")
            return self.history(request.user_id)
        ids = self._builder.history_ids(self._recent(request.history, "history"))
        stored = self._events.get(request.user_id)
        if stored is not None and np.array_equal(ids, self._builder.history_ids(stored)):
            return self._builder.history_block(ids, request.user_id)
        return self._builder.history_block(ids, _inline_owner(request.user_id, ids))

    def request_items(self, request: RecommendRequest) -> list[Block]:
        """The candidates' blocks, in order; errors name the candidate at fault."""
        num_candidates = len(request.candidates)
        if not 1 <= num_candidates <= self._max_candidates:
            raise InvalidRequestError(
                f"{num_candidates=} must be 1 to max_candidates={self._max_candidates}", field="candidates"
            )
        blocks, seen = [], set()
        for i, candidate in enumerate(request.candidates):
            item_id = candidate if isinstance(candidate, str) else candidate.item_id
            if item_id in seen:
                raise InvalidRequestError(f"candidate {item_id!r} occurs twice", field=f"candidates[{i}]")
            seen.add(item_id)
            blocks.append(self._candidate(candidate, f"candidates[{i}]"))
        return blocks

    def _candidate(self, candidate: str | Item, field: str) -> Block:
        if isinstance(candidate, str):
            item = self.items.get(candidate)
            if item is None:
                raise NotFoundError(f"item {candidate!r} is not in the catalogue; put it or send its text", field=field)
            return self.checked_item(item, field)
        if self.items.get(candidate.item_id) == candidate:
            return self.checked_item(candidate, field)
        ids = self._builder.item_ids(candidate)
        return self.checked_item(candidate, field, owner=_inline_owner(candidate.item_id, ids))

    def _known(self, user_id: str) -> tuple[Event, ...]:
        events = self._events.get(user_id)
        if events is None:
            raise NotFoundError(f"user {user_id!r} is not known; put them or send a history", field="user_id")
        return events

    def _recent(self, events: Sequence[Event], field: str) -> tuple[Event, ...]:
        """The newest events that fit; all of them, if they do."""
        if len(self._builder.history_ids(events)) <= self._max_history_tokens:
            return tuple(events)
        left = int(self._max_history_tokens * KEPT_SHARE) - len(self._builder.history_ids(events[:0]))
        kept: list[Event] = []
        for event in reversed(events):
            left -= len(self._builder.event_ids(event))
            if left < 0:
                break
            kept.append(event)
        if kept:
            return tuple(reversed(kept))
        newest = tuple(events[-1:])
        num_tokens = len(self._builder.history_ids(newest))
        if num_tokens > self._max_history_tokens:
            raise InvalidRequestError(
                f"the newest event alone makes {num_tokens} tokens; a history may have {self._max_history_tokens}",
                field=field,
            )
        return newest


def _check_id(value: str, field: str) -> None:
    if not value or "\0" in value:
        raise InvalidRequestError(f"{value!r} is not an id: it must be non-empty and without NUL", field=field)


def _inline_owner(name: str, token_ids: np.ndarray) -> str:
    """Ids hold no NUL, so this is nobody's id."""
    return f"\0{name}\0{hashlib.sha256(token_ids.tobytes()).hexdigest()}"

"""Items, users and events: what a catalogue and an event stream are made of."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that can be recommended; a template turns its fields into the text that the model reads."""

    item_id: str
    title: str
    description: str = ""
    brand: str = ""
    categories: tuple[str, ...] = ()
    price: float | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """One interaction of a user with an item, as the user's history tells it."""

    item_id: str
    title: str
    text: str = ""
    rating: float | None = None
    timestamp_s: int | None = None


@dataclass(frozen=True, slots=True)
class User:
    """A user and their events, oldest first."""

    user_id: str
    events: tuple[Event, ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """Candidates to rank for one user, and, for evaluation, the candidate that they chose."""

    user_id: str
    candidates: tuple[str, ...]
    target: str | None = None


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Items by id, users by id, and requests, in the order they were read."""

    items: dict[str, Item]
    users: dict[str, User]
    requests: tuple[Request, ...] = ()

"""Items, users and events: what a catalogue and an event stream are made of."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that can be recommended; a template turns its fields into the text that the model reads.

    Example:

        >>> mug = Item("mug-1", "Stoneware mug", description="Holds 350 ml.", categories=("Kitchen",), price=12.5)
        >>> engine.put_items([mug])  # how many blocks of KV were computed
        1
        >>> engine.delete_items(["mug-1"])
        1
    """

    item_id: str
    title: str
    description: str = ""
    brand: str = ""
    categories: tuple[str, ...] = ()
    price: float | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """One interaction of a user with an item, as the user's history tells it.

    Example:

        >>> bought = Event("kettle-1", "Gooseneck kettle", text="Pours slowly.", rating=5, timestamp_s=1_700_000_000)
        >>> engine.put_user(User("bob"))
        >>> engine.append_events("bob", [bought])
    """

    item_id: str
    title: str
    text: str = ""
    rating: float | None = None
    timestamp_s: int | None = None


@dataclass(frozen=True, slots=True)
class User:
    """A user and their events, oldest first.

    Example:

        >>> engine.put_user(User("ann", (Event("mug-1", "Stoneware mug"),)))
        >>> engine.delete_user("ann")
        True
    """

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
    """Items by id, users by id, and requests, in the order they were read.

    Example:

        >>> mug = Item("mug-1", "Stoneware mug")
        >>> Catalogue({mug.item_id: mug}, {"ann": User("ann")}).items["mug-1"].title
        'Stoneware mug'
    """

    items: dict[str, Item]
    users: dict[str, User]
    requests: tuple[Request, ...] = ()

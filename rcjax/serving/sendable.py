"""What a client says of values that no message can carry, before anything is sent."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

from google.protobuf.message import Message

from rcjax.catalog.types import Event, Item, User
from rcjax.errors import InvalidRequestError, half_a_character
from rcjax.request import ServiceLimits

MAX_MESSAGE_BYTES = ServiceLimits().max_message_bytes  # of a server whose settings say nothing else


@contextmanager
def named_texts(**values: Any) -> Iterator[None]:
    """For making a message of `values`, by its field names: a text that has no UTF-8 is an `InvalidRequestError`."""
    try:
        yield
    except UnicodeEncodeError as error:
        path = next(path for name, value in values.items() for path, text in _texts(value, name) if _is_broken(text))
        raise half_a_character(error, path) from error


def check_size(message: Message) -> None:
    """`InvalidRequestError` for a message that no server takes, however often it is sent."""
    num_bytes = message.ByteSize()
    if num_bytes > MAX_MESSAGE_BYTES:
        raise InvalidRequestError(
            f"the request has {num_bytes:,} bytes, a server takes {MAX_MESSAGE_BYTES:,}; send it in parts"
        )


def _texts(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Every text in a value, and the field that has it as rcjax.proto spells it."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Item | Event | User):
        for field in fields(value):
            yield from _texts(getattr(value, field.name), f"{path}.{field.name}")
    elif isinstance(value, tuple):
        for index, entry in enumerate(value):
            yield from _texts(entry, _entry_path(path, index, entry))


def _entry_path(path: str, index: int, entry: Any) -> str:
    if path == "history":
        return f"history.events[{index}]"
    kind = "" if path != "candidates" else ".item" if isinstance(entry, Item) else ".item_id"
    return f"{path}[{index}]{kind}"


def _is_broken(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)

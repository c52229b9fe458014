"""The id of the request that is being worked on, which every log line about it carries."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_request_id: ContextVar[str] = ContextVar("rcjax_request_id", default="")


def current_request_id() -> str:
    """Of what runs now, or "" where that is for no request. Tasks inherit it; other threads have to be told."""
    return _request_id.get()


@contextmanager
def working_on(request_id: str) -> Iterator[None]:
    """Makes `request_id` the current one inside."""
    token = _request_id.set(request_id)
    try:
        yield
    finally:
        _request_id.reset(token)

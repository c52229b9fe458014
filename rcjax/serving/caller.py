"""Who calls: what security learnt of a caller, for those who are fair, account or log by caller."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Caller:
    """A caller by the name and the tenant that the server's own settings give to it; a request cannot choose them."""

    name: str
    tenant: str = ""


ANONYMOUS = Caller("anonymous")  # where the server asks nobody who they are

_caller: ContextVar[Caller] = ContextVar("rcjax_caller", default=ANONYMOUS)


def current_caller() -> Caller:
    """Who called what runs now; tasks and `asyncio.to_thread` inherit it, other threads have to be told."""
    return _caller.get()


@contextmanager
def calling(caller: Caller) -> Iterator[None]:
    """Makes `caller` the current one inside."""
    token = _caller.set(caller)
    try:
        yield
    finally:
        _caller.reset(token)

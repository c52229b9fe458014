"""Where a service tells of a result that was just made, for a trace that may be under way around it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from rcjax.request import RecommendResult

_listener: ContextVar[Callable[[RecommendResult], None] | None] = ContextVar("rcjax_stage_listener", default=None)


def trace_stages(result: RecommendResult) -> None:
    """Makes spans of a result's stages where its RPC is traced."""
    listener = _listener.get()
    if listener is not None:
        listener(result)


@contextmanager
def tracing_stages(listener: Callable[[RecommendResult], None]) -> Iterator[None]:
    """Has `trace_stages` tell `listener` inside, and in tasks that start inside."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)

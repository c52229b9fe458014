"""An engine that is made on a thread of its own, while the server that will serve it is up already."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol, runtime_checkable

from rcjax.errors import UnavailableError
from rcjax.request import EngineInfo
from rcjax.serving.engine import Engine


@runtime_checkable
class OwnedEngine(Engine, Protocol):
    """An engine whose owner can stop it, and hears of it when it is lost (`rcjax.serving.router.Router`)."""

    @property
    def lost(self) -> Any:
        """A `Future` that gets the exception after which the engine answers nothing any more."""
        ...

    def stop(self, grace_s: float) -> None:
        """Refuses new calls, finishes what is there within `grace_s`, and fails the rest; blocks."""
        ...


class StartingEngine:
    """The engine that `factory` makes, once it is there.

    `ready` gets its info, or what `factory` raised. `lost` is the engine's own, from when it is there.
    """

    def __init__(self, factory: Callable[[], OwnedEngine]):
        self._factory = factory
        self._lock = threading.Lock()  # guards the two below
        self._engine: OwnedEngine | None = None
        self._is_stopped = False
        # Both are running from the start, so that a waiter who is cancelled does not cancel them for others.
        self.ready: Future[EngineInfo] = Future()
        self.ready.set_running_or_notify_cancel()
        self.lost: Future[None] = Future()
        self.lost.set_running_or_notify_cancel()
        # A daemon, as making an engine takes minutes and must not keep the process from exiting.
        self._thread = threading.Thread(target=self._make, name="rcjax-starting", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def get(self) -> Engine:
        """The engine; `UnavailableError` before it is there."""
        if self._engine is None:
            raise UnavailableError("the server is starting; wait until its health is SERVING")
        return self._engine

    async def stop(self, grace_s: float) -> None:
        """Stops the engine within about `grace_s`; one that is still being made is stopped as soon as it is there."""
        with self._lock:
            self._is_stopped = True
            engine = self._engine
        if engine is not None:
            await asyncio.to_thread(engine.stop, grace_s)

    def _make(self) -> None:
        try:
            engine = self._factory()
            info = engine.info
        except BaseException as error:  # whatever it is, those who wait for the engine must hear of it
            self.ready.set_exception(error)
            return
        with self._lock:
            self._engine = engine
            is_stopped = self._is_stopped
        if is_stopped:
            engine.stop(0.0)
        engine.lost.add_done_callback(self._on_lost)
        self.ready.set_result(info)

    def _on_lost(self, lost: Future[None]) -> None:
        error = None if lost.cancelled() else lost.exception()
        if error is not None:
            self.lost.set_exception(error)

"""A host as others call it: an actor, and which incarnation of it is meant."""

from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from rcjax.cluster.ray.answer import Answer
from rcjax.engine.generation import Listener
from rcjax.engine.state import fail, resolve
from rcjax.errors import RcjaxError, UnavailableError
from rcjax.request import TokenCounts


@dataclass(frozen=True, slots=True, eq=False)
class HostHandle:
    """Calls methods of a `HostActor`; one that is a new incarnation of the same name answers as if it were gone."""

    actor: Any
    name: str
    incarnation: str

    def ask(self, method: str, *args: Any) -> "Future[Any]":
        """Calls a method that gives an `Answer`; `UnavailableError` where the host is gone.

        Cancelling the future cancels the call there.
        """
        future: Future[Any] = Future()
        try:
            asked = getattr(self.actor, method).remote(self.incarnation, *args)
        except RayError as error:
            fail(future, self._gone(error))
            return future
        future.add_done_callback(partial(_cancel, asked))
        asked.future().add_done_callback(lambda answered: self._settle(future, answered))
        return future

    async def listen(self, method: str, listener: Listener, *args: Any) -> list[int]:
        """Calls a method that gives an `Answer` for the prompt and for each token, and tells `listener` of them."""
        new: list[int] = []
        stream = getattr(self.actor, method).options(num_returns="streaming").remote(self.incarnation, *args)
        try:
            async for one in stream:
                told = (await one).result()
                if isinstance(told, TokenCounts):
                    listener.on_prompt(told)
                else:
                    listener.on_token(told)
                    new.append(told)
        except RayActorError as error:
            raise self._gone(error) from error
        except BaseException:  # the reader has gone, or reads too slowly
            ray.cancel(stream)
            raise
        return new

    def _settle(self, future: "Future[Any]", answered: "Future[Answer]") -> None:
        error = answered.exception()
        if error is None:
            answer = answered.result()
            if answer.error is None:
                resolve(future, answer.value)
            else:
                fail(future, answer.error)
        elif isinstance(error, RayActorError):
            fail(future, self._gone(error))
        else:
            fail(future, error)

    def _gone(self, error: Exception) -> RcjaxError:
        return UnavailableError(f"host {self.name} is gone: {first_line(error)}")


def first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _cancel(asked: Any, future: "Future[Any]") -> None:
    if future.cancelled():
        ray.cancel(asked)

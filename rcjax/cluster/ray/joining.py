"""Joining: a host tells the keeper that it is there, takes the library over, and says when it has."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayError

from rcjax.cluster.ray.names import KEEPER, NAMESPACE
from rcjax.cluster.ray.news import Hello
from rcjax.cluster.ray.records import replay
from rcjax.engine.library import Library
from rcjax.errors import RcjaxError, UnavailableError

logger = logging.getLogger(__name__)

PAUSE_S = 1.0  # between two tries, while there is no keeper, or a new one that begins


class Joining:
    """Joins on a thread of its own, again and again until the keeper has it, or refuses it for good."""

    def __init__(self, hello: Callable[[], Hello], library: Library):
        self._hello = hello
        self._library = library
        self._thread = threading.Thread(target=self._run, name="rcjax-joining", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                self._join()
                return
            except (UnavailableError, ValueError, RayError) as error:  # ValueError: no actor of that name
                logger.warning("this host has not joined yet: %s", error)
            except RcjaxError as error:
                logger.critical("this host cannot join: %s", error)
                return
            time.sleep(PAUSE_S)

    def _join(self) -> None:
        hello = self._hello()
        keeper: Any = ray.get_actor(KEEPER, namespace=NAMESPACE)
        ray.get(keeper.join.remote(hello)).result()
        # Writes are recorded here from now on; what the dump has of an older version does not take their place.
        for chunk in keeper.dump.options(num_returns="streaming").remote():
            replay(self._library, ray.get(chunk))
        ray.get(keeper.ready.remote(hello.name, hello.incarnation)).result()

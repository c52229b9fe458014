"""Hosts that start: whether one of them cannot, and why."""

from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError

from rcjax.cluster.ray.membership import actor_of


class Starting:
    """Looks after hosts that were just launched, by name."""

    def __init__(self, names: Sequence[str]):
        self._asked: dict[Any, str] = {actor_of(name).hello.remote(): name for name in names}

    def check(self) -> None:
        """ValueError where a host has failed to start, with what it failed with; returns at once."""
        if not self._asked:
            return
        done, _ = ray.wait(list(self._asked), num_returns=len(self._asked), timeout=0)
        for asked in done:
            name = self._asked.pop(asked)
            try:
                ray.get(asked)
            except RayActorError as error:
                lines = [line for line in str(error).splitlines() if line.strip()]
                raise ValueError(f"host {name} cannot start: {lines[-1].strip() if lines else error!r}") from error

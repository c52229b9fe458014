"""The parts of a router whose workers are on other hosts: the keeper has one, and each front end."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from rcjax.cluster.ray.profile import Planning
from rcjax.cluster.ray.remote_slice import RemoteSlice, Seats
from rcjax.config import Settings
from rcjax.serving.residency import Residency


@dataclass(frozen=True, slots=True, eq=False)
class RemoteParts:
    """What plans, a worker for each place of the cluster, and what they hold."""

    planning: Planning
    residency: Residency
    slices: tuple[RemoteSlice, ...]

    @classmethod
    def of(
        cls, settings: Settings, planning: Planning, loop: asyncio.AbstractEventLoop, clock: Callable[[], float]
    ) -> "RemoteParts":
        num_places = num_places_of(settings)
        residency, seats = Residency(num_places), Seats()
        slices = tuple(RemoteSlice(place, seats, residency, loop, clock) for place in range(num_places))
        return cls(planning, residency, slices)


def num_places_of(settings: Settings) -> int:
    """As many as there may be slices of all hosts together."""
    return settings.cluster.max_hosts * settings.mesh.slices

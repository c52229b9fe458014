"""The news of a host: what routers ask it for again and again, and what it is when it joins."""

from dataclasses import dataclass

from rcjax.cluster.ray.outbox import Messages
from rcjax.cluster.ray.profile import Profile
from rcjax.engine.cost import Program
from rcjax.engine.worker_stats import WorkerStats


@dataclass(frozen=True, slots=True)
class News:
    """What a host has to say: residency messages, or with `is_whole` all that it holds, and how its slices are."""

    messages: Messages
    is_whole: bool
    stats: tuple[WorkerStats, ...]
    timed: dict[Program, float]


@dataclass(frozen=True, slots=True)
class Hello:
    """A host that joins. `newest` is the highest version it has heard of; `first_place` is None before it had any."""

    name: str
    incarnation: str
    node: str
    pid: int
    num_slices: int
    profile: Profile
    newest: int
    first_place: int | None

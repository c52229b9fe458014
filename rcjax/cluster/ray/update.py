"""What the keeper tells those who follow it, and what it answers to a write."""

from dataclasses import dataclass

from rcjax.cluster.ray.member import Member
from rcjax.cluster.ray.records import Record
from rcjax.request import WriteResult


@dataclass(frozen=True, slots=True)
class Update:
    """What writes have changed up to `end`, which the next question gives back with `epoch`.

    With them a library has all writes up to version `readable`. `is_whole` says that some of the changes are kept no
    longer, so that all has to be taken over anew, after which what is older than `newest` and was not there is gone.
    """

    epoch: str  # of the keeper's process
    end: int
    records: tuple[Record, ...]
    is_whole: bool
    readable: int
    newest: int
    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class Written:
    """A write that is done; whoever has the changes up to `end` of this `epoch` has its."""

    result: WriteResult
    epoch: str
    end: int


@dataclass(frozen=True, slots=True)
class HostStatus:
    """A host as `rcjax cluster status` shows it; items are those that its slices own."""

    name: str
    node: str
    pid: int
    state: str
    places: tuple[int, ...]
    num_items: int
    num_hits: int
    num_misses: int
    pages_used: int
    pages_total: int


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """A cluster as its keeper sees it; `refused` says why a host that came could not join."""

    model: str
    num_items: int
    num_users: int
    num_routers: int
    hosts: tuple[HostStatus, ...]
    refused: dict[str, str]

"""What `rcjax cluster status` shows of hosts."""

from collections.abc import Mapping, Sequence

from rcjax.cluster.ray.member import Member
from rcjax.cluster.ray.remote_slice import RemoteSlice
from rcjax.cluster.ray.update import HostStatus
from rcjax.engine.library import Library
from rcjax.serving.owners import ItemOwners


def status_of(member: Member, slices: Sequence[RemoteSlice], owned: Mapping[int, int]) -> HostStatus:
    """A member as its slices last said; `owned` are the items that each place owns."""
    stats = [slices[place].stats for place in member.places]
    return HostStatus(
        name=member.name,
        node=member.node,
        pid=member.pid,
        state=str(member.state),
        places=tuple(member.places),
        num_items=sum(owned.get(place, 0) for place in member.places),
        num_hits=sum(one.num_hits for one in stats),
        num_misses=sum(one.num_misses for one in stats),
        pages_used=sum(one.pages_used for one in stats),
        pages_total=sum(one.pages_total for one in stats),
    )


def num_items(library: Library, owners: ItemOwners) -> dict[int, int]:
    """The items that each place owns, of those that own some."""
    owned: dict[int, int] = {}
    for owner in library.item_owners:
        for place in owners.slices_of(owner.full_id):
            owned[place] = owned.get(place, 0) + 1
    return owned

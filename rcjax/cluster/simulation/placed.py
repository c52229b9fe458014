"""Which simulated slices hold an item because it is placed there."""

from rcjax.cluster.simulation.workload import Workload
from rcjax.serving.owners import ItemOwners
from rcjax.serving.residency import Residency


class PlacedItems:
    """Asks the owners when an item is first wanted, and tells residency then: nobody looks before.

    So that ten million items on a thousand slices cost nothing until requests name them.
    """

    def __init__(self, owners: ItemOwners, workload: Workload, residency: Residency):
        self._owners = owners
        self._id_of = workload.id_of
        self._residency = residency
        self._slices_of: dict[int, tuple[int, ...]] = {}

    def want(self, item: int, key: bytes) -> None:
        """Makes sure that residency knows where an item is placed."""
        if item not in self._slices_of:
            slices = self._slices_of[item] = self._owners.slices_of(self._id_of(item))
            for index in slices:
                self._residency.commit(index, key)

    def is_placed(self, item: int, index: int) -> bool:
        """Of an item that was wanted."""
        return index in self._slices_of[item]

"""How many items and users the pools and tiers hold."""

from dataclasses import dataclass

from rcjax.cache.placement import Placement
from rcjax.config import MeshSettings
from rcjax.serving.sizing.traffic import Traffic


def mean_pages(mean_tokens: float, page_tokens: int) -> float:
    """Pages of a block: its tokens, and on average half a page that its last one leaves empty."""
    return mean_tokens / page_tokens + (page_tokens - 1) / (2 * page_tokens)


def copies_of(mesh: MeshSettings) -> float:
    """Slices that an item stands on, on average over items."""
    if mesh.placement_file is not None:
        placement = Placement.load(mesh.placement_file)
        return len(placement.slices) / max(1, len(placement.item_ids))
    return mesh.slices if mesh.placement == "all" else 1


@dataclass(frozen=True, slots=True)
class PoolCapacity:
    """Blocks in the pools of all slices, where each history stands on every slice, and an item on `copies` of them.

    `num_pages` are those of a slice for them, without the null page, the instruction, and what replicas of other
    slices' blocks may take.
    """

    num_pages: float
    num_slices: int
    copies: float
    item_pages: float
    history_pages: float

    def items_beside(self, num_users: int) -> int:
        """Items that fit beside the histories of so many users."""
        room = max(0.0, self.num_pages - num_users * self.history_pages)
        return int(room * self.num_slices / self.copies / self.item_pages)

    def users_beside(self, num_items: int) -> int:
        """Users whose histories fit beside so many items."""
        room = max(0.0, self.num_pages - num_items * self.item_pages * self.copies / self.num_slices)
        return int(room / self.history_pages)

    def share_held(self, num_items: int, num_users: int) -> float:
        """Of all blocks' pages the share that fits, at most 1; the rest is evicted and built or fetched again."""
        wanted = num_users * self.history_pages + num_items * self.item_pages * self.copies / self.num_slices
        return min(1.0, self.num_pages / wanted) if wanted else 1.0


def blocks_in(num_bytes: int, page_bytes: int, traffic: Traffic, page_tokens: int) -> tuple[int, int]:
    """Items, or users, whose blocks so many bytes of a tier hold."""
    pages = num_bytes / page_bytes
    return (
        int(pages / mean_pages(traffic.item_tokens, page_tokens)),
        int(pages / mean_pages(traffic.history_tokens, page_tokens)),
    )

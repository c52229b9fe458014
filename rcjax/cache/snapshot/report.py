"""What taking and restoring a snapshot say of themselves."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class SnapshotReport:
    """What taking or restoring a snapshot did, block by block; the instruction is not counted.

    `num_blocks` (and `num_bytes`, of their KV) are in the snapshot, or were restored. `num_skipped` were left out:
    inline content when saving, blocks that did not fit into the free pages when restoring. `num_written` blocks
    (`written_bytes`) were not in the snapshots before. The others are of restoring only: `num_present` had a block
    already, which stayed, and `corrupt` names those whose bytes are not what was saved.
    """

    num_blocks: int
    num_bytes: int
    num_skipped: int
    num_present: int = 0
    corrupt: tuple[str, ...] = ()
    number: int = field(default=0, compare=False)  # of the snapshot in its folder, from 1
    num_written: int = field(default=0, compare=False)
    written_bytes: int = field(default=0, compare=False)
    num_items: int = field(default=0, compare=False)  # in the snapshot, or new to the library that it was restored into
    num_users: int = field(default=0, compare=False)

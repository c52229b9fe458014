"""What a planner hands on: requests and writes, with all that is known of them before they wait anywhere."""

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from rcjax.catalog.types import Event, Item
from rcjax.engine.arm import Arm
from rcjax.engine.assembly import Row
from rcjax.engine.shape import RowSize
from rcjax.prompt import Block, BlockKind, Owner, Prompt
from rcjax.request import RecommendRequest, Write

Content = TypeVar("Content", Item, tuple[Event, ...])


@dataclass(frozen=True, slots=True)
class PlannedBlock:
    """An item or a history as it is cached: right after the instruction."""

    block: Block
    key: bytes


@dataclass(slots=True, eq=False)
class Stored(Generic[Content]):
    """An item, or the events of a user, as the library holds it since a version.

    Nobody changes it, but that its library forgets `block` where room is short. `event_lens` are the events' tokens.
    """

    content: Content
    version: int
    block: PlannedBlock | None
    event_lens: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A request as a prompt, and what serving it takes.

    `size` is that of its row of the ranking pass where every block of `cached` is in the cache. Where a probe measures
    what is selected, it has the most pages that the row may read.
    """

    request: RecommendRequest  # with its arm filled in
    arm: Arm
    prompt: Prompt
    item_ids: tuple[str, ...]
    history: PlannedBlock  # as the prompt has it, which leaves out one without tokens
    items: tuple[PlannedBlock, ...]  # of the candidates, in their order
    cached: tuple[int, ...]  # indices of the blocks that the arm takes from the cache, in prompt order
    wanted: tuple[PlannedBlock, ...]  # these as they are cached, in the same order
    row: Row | None  # of the ranking pass; None where a probe, a stored order or a borrowed history comes first
    size: RowSize
    block_pages: int  # pages that the blocks of `cached` hold
    cost_s: float  # of the pass alone, in the cheapest shape
    share_s: float  # of a pass that others fill too: what the slice spends on it while many wait
    full_pass_s: float  # of that pass
    version: int  # of the library that it read
    plan_s: float

    @property
    def keys(self) -> tuple[bytes, ...]:
        """Of the blocks of `wanted`."""
        return tuple(planned.key for planned in self.wanted)


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """What a write makes of one item or user: `stored` is None where it is deleted."""

    kind: BlockKind
    owner: Owner
    stored: Stored[Any] | None


@dataclass(frozen=True, slots=True, eq=False)
class WritePlan:
    """A write, the blocks to make ready before it takes effect, and those to drop once it has.

    Where `grow_from` is cached, the one block of `build` begins with its tokens.
    """

    write: Write
    version: int
    build: tuple[PlannedBlock, ...]
    grow_from: PlannedBlock | None
    drop: tuple[tuple[BlockKind, Owner], ...]
    commit: tuple[Change, ...]  # for `Library.swap`

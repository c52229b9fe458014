"""Claims: blocks that a request or a write wants in the cache at the same time, and the builds it waits for."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from rcjax.cache import CachedBlock
from rcjax.engine.plan import PlannedBlock
from rcjax.prompt import Block


@dataclass(eq=False, slots=True)
class Build:
    """A reserved block whose tokens from `num_cached` on are to be computed, and the claims that wait for it."""

    block: Block
    cached: CachedBlock
    version: int = 0
    num_cached: int = 0
    claims: list["Claim"] = field(default_factory=list)
    is_running: bool = False

    @property
    def num_fresh(self) -> int:
        return len(self.block) - self.num_cached


@dataclass(eq=False, slots=True)
class Claim:
    """Blocks that somebody wants pinned together, by a plan or write of `version`.

    Made by whoever wants them, granted and released by the `BlockCache`. Once granted, `pins` has a block for each
    of `wanted`, some perhaps still being built; `num_built` how many tokens were computed for each, and `scratch` the
    pages of its own that it asked for. `grow_from` is a cached beginning of the only block wanted. `error` is what a
    build of it failed with.
    """

    wanted: Sequence[PlannedBlock]
    version: int
    is_urgent: bool  # a request waits for it, so its builds go before those of writes
    grow_from: PlannedBlock | None = None
    num_scratch_pages: int = 0
    scratch: CachedBlock | None = None
    pins: list[CachedBlock] = field(default_factory=list)
    num_built: list[int] = field(default_factory=list)
    num_building: int = 0
    is_granted: bool = False
    error: BaseException | None = None

    @property
    def is_done(self) -> bool:
        """Whether it was granted and nothing of it is still being built, or a build of it failed."""
        return self.error is not None or (self.is_granted and not self.num_building)

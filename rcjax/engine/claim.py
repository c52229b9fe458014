"""Claims: blocks that a request or a write wants in the cache at the same time, and those of them that are to come."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rcjax.cache import CachedBlock
from rcjax.engine.origin import Origin
from rcjax.engine.plan import PlannedBlock
from rcjax.prompt import Block

if TYPE_CHECKING:
    from rcjax.engine.fetch import Fetch, Source


@dataclass(eq=False, slots=True)
class Build:
    """A reserved block whose KV is to come, and the claims that wait for it.

    Its tokens from `num_cached` on are computed, unless `fetch` brings the KV of all. `origin` is where it came from,
    once it is there; `tried` are the sources that turned out not to have it.
    """

    block: Block
    cached: CachedBlock
    version: int = 0
    num_cached: int = 0
    claims: list["Claim"] = field(default_factory=list)
    is_running: bool = False
    fetch: "Fetch | None" = None
    tried: "tuple[Source, ...]" = ()
    origin: Origin = Origin.BUILT

    @property
    def num_fresh(self) -> int:
        return len(self.block) - self.num_cached

    @property
    def is_urgent(self) -> bool:
        """Whether a request waits for it."""
        return any(claim.is_urgent for claim in self.claims)


@dataclass(eq=False, slots=True)
class Claim:
    """Blocks that somebody wants pinned together, by a plan or write of `version`.

    Made by whoever wants them, granted and released by the `BlockCache`. Once granted, `pins` has a block for each
    of `wanted`, some perhaps still to come; `missed` has what brings those that were not there, and `scratch` the
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
    missed: Sequence[Build] = ()
    num_building: int = 0
    is_granted: bool = False
    error: BaseException | None = None

    @property
    def is_done(self) -> bool:
        """Whether it was granted and nothing of it is still to come, or a build of it failed."""
        return self.error is not None or (self.is_granted and not self.num_building)

    @property
    def num_built(self) -> list[int]:
        """How many tokens were computed for each of `wanted`, once it is done."""
        computed = {build.cached.key: build.num_fresh for build in self.missed if build.origin is Origin.BUILT}
        return [computed.pop(wanted.key, 0) for wanted in self.wanted]

    def num_tokens_from(self, origin: Origin) -> int:
        """Tokens of the blocks that missed and came from there, once it is done."""
        return sum(build.num_fresh for build in self.missed if build.origin is origin)

"""The block cache: grants claims on blocks, and computes or fetches those that miss."""

from collections.abc import Generator, Iterable
from typing import Any

from rcjax.cache import BlockDirectory, BlockKeys, CachedBlock
from rcjax.engine.build_pass import BuildPasses
from rcjax.engine.claim import Build, Claim
from rcjax.engine.executor import Executor, Pending
from rcjax.engine.fetch import Fetch
from rcjax.engine.fetching import Fetches
from rcjax.engine.origin import Origin
from rcjax.engine.plan import PlannedBlock
from rcjax.engine.reservations import Reservations
from rcjax.engine.shape import ShapeSet
from rcjax.engine.spilling import Spilling
from rcjax.prompt import NOBODY, Block


class BlockCache:
    """Blocks of one slice, by content. Every block but the instruction is computed right after the instruction.

    One thread uses it. A claim either gets all its blocks pinned, with pages reserved for those that miss, or nothing:
    so claims cannot wait for each other's pages. What misses is queued, whoever asked; `next_builds` packs a pass of it
    and `run_builds` computes that side by side in one row, each block in a segment of its own. With `fetches`, what
    another slice or a tier has is fetched where that is cheaper, and `land` takes it in. With `spilling`, what the pool
    evicts is kept in a tier.
    """

    def __init__(
        self, executor: Executor, directory: BlockDirectory, keys: BlockKeys, shapes: ShapeSet, instruction: Block
    ):
        self.directory = directory
        self.keys = keys
        self.executor = executor
        self.num_local_hits = 0
        self.num_misses = 0
        self.num_computed = 0  # blocks, for requests and writes
        self.num_replica_hits = 0  # on blocks that were copied from another slice before
        self.num_lent_pages = 0
        self.fetches: Fetches | None = None
        self.spilling: Spilling | None = None
        self.passes = BuildPasses(shapes, instruction, directory.pool.page_tokens)
        self._reservations = Reservations(executor.cost, directory, self.passes)
        self._instruction = instruction
        self._builds: dict[bytes, Build] = {}  # by key: the newest that waits or runs
        self._urgent: dict[Build, None] = {}  # waiting, in order
        self._background: dict[Build, None] = {}
        self._open: dict[Build, None] = {}  # all that wait or run, those too that were overtaken
        self._num_claims = 0

    def build_instruction(self) -> None:
        """Computes the instruction, which stays pinned for as long as this cache lives; blocks."""
        cached = self.directory.reserve(
            self.keys.instruction, self._instruction.kind, NOBODY, self._instruction.token_ids, 0.0
        )
        build = Build(self._instruction, cached)
        batch, source, destination, shape = self.passes.arrays([build])
        self.executor.build(batch, source, destination, shape).result()
        self.directory.commit(cached)
        self.passes.instruction_pages = tuple(cached.pages)

    @property
    def page_tokens(self) -> int:
        return self.passes.page_tokens

    @property
    def pass_tokens(self) -> int:
        """The most tokens that one build pass computes."""
        return self.passes.largest.fresh_tokens

    @property
    def instruction_pages(self) -> tuple[int, ...]:
        return self.passes.instruction_pages

    @property
    def num_hits(self) -> int:
        return self.num_local_hits + self.num_replica_hits

    @property
    def num_claims(self) -> int:
        """Claims that were granted and not released."""
        return self._num_claims

    @property
    def building_versions(self) -> list[int]:
        """Of the plans and writes whose blocks wait to be built or are being built."""
        return [build.version for build in self._open]

    # ---- claims

    def grant(self, claim: Claim) -> bool:
        """Pins what is cached and reserves what misses; False, with nothing pinned, where pages lack for now.

        Raises `ResourceExhaustedError` where they lack although nothing else holds any: waiting would not help.
        """
        found: dict[bytes, CachedBlock] = {}
        missing: dict[bytes, PlannedBlock] = {}
        joined: list[Build] = []
        for wanted in claim.wanted:
            key = wanted.key
            if key in found or key in missing:
                continue
            build = self._builds.get(key)
            if build is not None and build.cached.superseded:
                build = None  # dropped or overtaken since: nobody may find it any more
            if build is not None:
                cached: CachedBlock | None = build.cached
                self.directory.pin(build.cached)
                joined.append(build)
            else:
                cached = self.directory.acquire(key, wanted.block.token_ids)
            if cached is None:
                missing[key] = wanted
            else:
                found[key] = cached
        try:
            builds = (
                self._reservations.make(claim, missing, may_wait=self._num_claims > 0)
                if missing or claim.num_scratch_pages
                else []
            )
        except BaseException:
            self._unpin(found.values())
            raise
        finally:
            if self.spilling is not None:
                self.spilling.flush()
        if builds is None:
            self._unpin(found.values())
            return False
        num_replicas = self._note_replicas(claim, found.values()) if self.directory.replicas else 0
        self.num_local_hits += len(found) - num_replicas
        self.num_replica_hits += num_replicas
        self.num_misses += len(missing)
        self._num_claims += 1
        for build in builds:
            self._builds[build.cached.key] = build
            self._open[build] = None
            self.directory.pin(build.cached)  # the claim's own pin, beside the reserver's
            found[build.cached.key] = build.cached
        for build in (*joined, *builds):
            build.claims.append(claim)
            claim.num_building += 1
        for build in joined:
            self._enqueue(build)
        self._bring(builds)
        claim.is_granted = True
        claim.pins = [found[wanted.key] for wanted in claim.wanted]
        claim.missed = builds
        return True

    def release(self, claim: Claim) -> None:
        """Gives a granted claim's pins back; builds that nobody waits for any more are given up unless they run."""
        self._num_claims -= 1
        self._unpin(dict.fromkeys(claim.pins))
        claim.pins, claim.is_granted = [], False
        if claim.scratch is not None:
            self.directory.release(claim.scratch)
            claim.scratch = None
        if claim.num_building:
            for build in [build for build in self._open if claim in build.claims]:
                build.claims.remove(claim)
                if not build.claims and not build.is_running:
                    self._forget(build)
                    self.directory.abort(build.cached)
            claim.num_building = 0

    def discard(self, block: CachedBlock) -> None:
        """Makes a block unfindable whose KV is not to be trusted; whoever wants that content computes it anew."""
        self.directory.discard(block)
        if self.fetches is not None:
            self.fetches.distrust(block.key)

    def _note_replicas(self, claim: Claim, found: Iterable[CachedBlock]) -> int:
        """How many are replicas; one that a write wants here is none any more."""
        replicas = [cached for cached in found if cached.is_replica]
        for cached in replicas:
            if not claim.is_urgent:
                self.directory.adopt(cached)
        return len(replicas)

    def _unpin(self, blocks: Iterable[CachedBlock]) -> None:
        for cached in blocks:
            self.directory.unpin(cached)

    def _bring(self, builds: list[Build]) -> None:
        """Has what misses fetched or computed."""
        for build in builds if self.fetches is None else self.fetches.assign(builds):
            self._enqueue(build)

    def _enqueue(self, build: Build) -> None:
        if build.is_running or build.fetch is not None:
            return
        if build.is_urgent:
            self._background.pop(build, None)
            self._urgent.setdefault(build)
        elif build not in self._urgent:
            self._background.setdefault(build)

    def _forget(self, build: Build) -> None:
        build.fetch = None
        for builds in (self._open, self._urgent, self._background):
            builds.pop(build, None)
        if self._builds.get(build.cached.key) is build:
            del self._builds[build.cached.key]

    # ---- fetches

    @property
    def is_fetching(self) -> bool:
        return self.fetches is not None and len(self.fetches) > 0

    def land(self, fetch: Fetch) -> None:
        """Takes in a fetch that is over: what came is ready, what did not is looked for elsewhere, or computed."""
        if self.fetches is None:
            return
        arrived, missing = self.fetches.land(fetch)
        for build, order in arrived.items():
            if order is not None and build.cached.order is None:
                self.directory.set_order(build.cached, order)
            if build.origin is Origin.SLICE and all(claim.is_urgent for claim in build.claims):
                self.directory.mark_replica(build.cached)
            self._commit(build)
        self._bring(missing)

    def give_up_late_fetches(self) -> float | None:
        """Looks elsewhere for what does not come in time; returns after how many seconds to do so again."""
        if self.fetches is None:
            return None
        self._bring(self.fetches.give_up_late())
        return self.fetches.wait_s

    # ---- builds

    @property
    def has_urgent_builds(self) -> bool:
        return bool(self._urgent)

    @property
    def has_builds(self) -> bool:
        """Whether anything waits to be built, for a request or a write."""
        return bool(self._urgent or self._background)

    def next_builds(self) -> list[Build]:
        """What the next build pass computes: what requests wait for, then what else its shape holds."""
        group = self.passes.pack([], self._urgent, self.passes.largest)
        shape = self.passes.fit(group) if group else self.passes.largest
        return self.passes.pack(group, self._background, shape)

    def run_builds(self, group: list[Build]) -> Generator[Pending[Any], Any, None]:
        """Computes and commits a group; if the pass fails, so do the claims that wait for its blocks."""
        for build in group:
            build.is_running = True
            self._urgent.pop(build, None)
            self._background.pop(build, None)
        try:
            batch, source, destination, shape = self.passes.arrays(group)
            yield self.executor.build(batch, source, destination, shape)
        except BaseException as error:
            for build in group:
                self._finish(build, error)
                self.directory.abort(build.cached)
            raise
        self.num_computed += len(group)
        for build in group:
            self._commit(build)

    def _commit(self, build: Build) -> None:
        self.directory.commit(build.cached)
        self._finish(build, None)
        self.directory.unpin(build.cached)

    def _finish(self, build: Build, error: BaseException | None) -> None:
        self._forget(build)
        for claim in build.claims:
            claim.num_building -= 1
            claim.error = claim.error or error
        build.claims = []  # they know the build, and would else keep each other until the garbage collector comes

"""The block cache: grants claims on blocks, and computes those that miss."""

from collections.abc import Generator, Iterable
from typing import Any

import numpy as np

from rcjax.cache import BlockBusyError, BlockDirectory, BlockKeys, CachedBlock
from rcjax.engine.build_pass import BuildPasses
from rcjax.engine.claim import Build, Claim
from rcjax.engine.executor import Executor, Pending
from rcjax.engine.plan import PlannedBlock
from rcjax.engine.shape import ShapeSet
from rcjax.errors import ResourceExhaustedError
from rcjax.prompt import Block


class BlockCache:
    """Blocks of one slice, by content. Every block but the instruction is computed right after the instruction.

    One thread uses it. A claim either gets all its blocks pinned, with pages reserved for those that miss, or nothing:
    so claims cannot wait for each other's pages. What misses is queued, whoever asked; `next_builds` packs a pass of it
    and `run_builds` computes that side by side in one row, each block in a segment of its own.
    """

    def __init__(
        self, executor: Executor, directory: BlockDirectory, keys: BlockKeys, shapes: ShapeSet, instruction: Block
    ):
        self.directory = directory
        self.keys = keys
        self.executor = executor
        self.num_hits = 0
        self.num_misses = 0
        self.passes = BuildPasses(shapes, instruction, directory.pool.page_tokens)
        self._instruction = instruction
        self._builds: dict[bytes, Build] = {}  # by key: the newest that waits or runs
        self._urgent: dict[Build, None] = {}  # waiting, in order
        self._background: dict[Build, None] = {}
        self._open: dict[Build, None] = {}  # all that wait or run, those too that were overtaken
        self._num_claims = 0

    def build_instruction(self) -> None:
        """Computes the instruction, which stays pinned for as long as this cache lives; blocks."""
        cached = self.directory.reserve(
            self.keys.instruction, self._instruction.kind, "", self._instruction.token_ids, 0.0
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
            builds = self._reserve(claim, missing) if missing or claim.num_scratch_pages else []
        except BaseException:
            self._unpin(found.values())
            raise
        if builds is None:
            self._unpin(found.values())
            return False
        self.num_hits += len(found)
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
            self._enqueue(build, claim.is_urgent)
        claim.is_granted = True
        claim.pins = [found[wanted.key] for wanted in claim.wanted]
        num_built = {build.cached.key: build.num_fresh for build in builds}
        claim.num_built = [num_built.pop(wanted.key, 0) for wanted in claim.wanted]
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

    def _unpin(self, blocks: Iterable[CachedBlock]) -> None:
        for cached in blocks:
            self.directory.unpin(cached)

    def _reserve(self, claim: Claim, missing: dict[bytes, PlannedBlock]) -> list[Build] | None:
        """Pages for all of `missing`, and those of the claim's own; or None."""
        grown = self._grow(claim)
        if grown is not None:
            return [grown]
        num_pages = claim.num_scratch_pages
        num_pages += sum(self.directory.pool.pages_for(len(wanted.block)) for wanted in missing.values())
        if num_pages > self.directory.num_available_pages:
            if self._num_claims:
                return None
            raise ResourceExhaustedError(
                f"{num_pages} pages are wanted and {self.directory.num_available_pages} can be had; retry later or "
                "enlarge cache.pool_bytes"
            )
        builds: list[Build] = []
        try:
            for wanted in missing.values():
                block = wanted.block
                cost_s = self.executor.cost.build_s(len(block))
                cached = self.directory.reserve(
                    wanted.key, block.kind, block.owner, block.token_ids, cost_s, version=claim.version
                )
                builds.append(Build(block, cached, claim.version))
            if claim.num_scratch_pages:
                claim.scratch = self.directory.reserve_scratch(claim.num_scratch_pages)
        except BaseException:
            for build in builds:
                self.directory.abort(build.cached)
            raise
        return builds

    def _grow(self, claim: Claim) -> Build | None:
        """The block that a claim grows, where its beginning is cached, nobody reads that, and one pass can do it."""
        former = claim.grow_from
        if former is None:
            return None
        (wanted,) = claim.wanted
        block = wanted.block
        current = self.directory.current(block.kind, block.owner)
        if current is None or current.key != former.key or not self._can_extend(current, block):
            return None
        self.directory.pin(current)
        try:
            cost_s = self.executor.cost.build_s(len(block))
            cached = self.directory.grow(current, wanted.key, block.token_ids, cost_s, version=claim.version)
        except (BlockBusyError, ResourceExhaustedError):
            self.directory.unpin(current)
            return None
        return Build(block, cached, claim.version, num_cached=len(former.block))

    def _can_extend(self, current: CachedBlock, block: Block) -> bool:
        num_cached = current.num_tokens
        num_fresh = len(block) - num_cached
        if num_fresh <= 0 or not np.array_equal(block.token_ids[:num_cached], current.token_ids):
            return False
        return self.passes.can_extend(num_fresh, len(current.pages))

    def _enqueue(self, build: Build, is_urgent: bool) -> None:
        if build.is_running:
            return
        if is_urgent:
            self._background.pop(build, None)
            self._urgent.setdefault(build)
        elif build not in self._urgent:
            self._background.setdefault(build)

    def _forget(self, build: Build) -> None:
        for builds in (self._open, self._urgent, self._background):
            builds.pop(build, None)
        if self._builds.get(build.cached.key) is build:
            del self._builds[build.cached.key]

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
        for build in group:
            self.directory.commit(build.cached)
            self._finish(build, None)
            self.directory.unpin(build.cached)

    def _finish(self, build: Build, error: BaseException | None) -> None:
        self._forget(build)
        for claim in build.claims:
            claim.num_building -= 1
            claim.error = claim.error or error

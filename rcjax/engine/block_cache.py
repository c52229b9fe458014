"""The block cache: grants claims on blocks, and computes those that miss."""

from collections.abc import Generator, Iterable
from typing import Any

import numpy as np

from rcjax.cache import BlockBusyError, BlockDirectory, BlockKeys, CachedBlock
from rcjax.engine.assembly import Row, Source, assemble
from rcjax.engine.claim import Build, Claim
from rcjax.engine.executor import Executor, Pending
from rcjax.engine.plan import PlannedBlock
from rcjax.engine.shape import Shape, ShapeSet
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
        self._shapes = shapes
        self._largest = max(shapes, key=lambda shape: shape.fresh_tokens)
        self._page_tokens = directory.pool.page_tokens
        self._instruction = instruction
        self._instruction_pages: tuple[int, ...] = ()
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
        batch, source, destination, shape = self._arrays([build])
        self.executor.build(batch, source, destination, shape).result()
        self.directory.commit(cached)
        self._instruction_pages = tuple(cached.pages)

    @property
    def page_tokens(self) -> int:
        return self._page_tokens

    @property
    def pass_tokens(self) -> int:
        """The most tokens that one build pass computes."""
        return self._largest.fresh_tokens

    @property
    def instruction_pages(self) -> tuple[int, ...]:
        return self._instruction_pages

    @property
    def num_claims(self) -> int:
        """Claims that were granted and not released."""
        return self._num_claims

    @property
    def building_versions(self) -> list[int]:
        """Of the plans and writes whose blocks wait to be built or are being built."""
        return [build.version for build in self._open]

    @property
    def max_claim_pages(self) -> int:
        """The most pages that one claim can have: all but the instruction's."""
        return self.directory.pool.capacity_pages - len(self._instruction_pages)

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
            cached = build.cached if build is not None else self.directory.lookup(key, wanted.block.token_ids)
            if cached is None:
                missing[key] = wanted
                continue
            if build is not None:
                joined.append(build)
            self.directory.pin(cached)
            found[key] = cached
        try:
            builds = self._reserve(claim, missing) if missing else []
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
        num_built = {build.cached.key: build.num_fresh for build in builds}
        claim.pins = [found[wanted.key] for wanted in claim.wanted]
        claim.num_built = [num_built.pop(wanted.key, 0) for wanted in claim.wanted]
        return True

    def release(self, claim: Claim) -> None:
        """Gives a granted claim's pins back; builds that nobody waits for any more are given up unless they run."""
        self._num_claims -= 1
        self._unpin(dict.fromkeys(claim.pins))
        claim.pins = []
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
        """Pages for all of `missing`, or None."""
        grown = self._grow(claim)
        if grown is not None:
            return [grown]
        num_pages = sum(self.directory.pool.pages_for(len(wanted.block)) for wanted in missing.values())
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
        num_pages = len(current.pages) + len(self._instruction_pages)
        return any(shape.holds(num_fresh, num_pages) for shape in self._shapes)

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

    def next_builds(self) -> tuple[list[Build], Shape]:
        """What the next build pass computes, and in which shape: what requests wait for, then what else fits in."""
        group = self._pack([], self._urgent, self._largest)
        shape = self._fit(group) if group else self._largest
        group = self._pack(group, self._background, shape)
        return group, self._fit(group)

    def run_builds(self, group: list[Build]) -> Generator[Pending[Any], Any, None]:
        """Computes and commits a group; if the pass fails, so do the claims that wait for its blocks."""
        for build in group:
            build.is_running = True
            self._urgent.pop(build, None)
            self._background.pop(build, None)
        try:
            batch, source, destination, shape = self._arrays(group)
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

    def _pack(self, group: list[Build], builds: Iterable[Build], shape: Shape) -> list[Build]:
        """`group`, and of `builds`, in order, those that one row of `shape` holds beside it; at least one in all."""
        packed = list(group)
        num_tokens, num_written, num_pages = self._size(packed)
        for build in builds:
            own_tokens, own_written, own_pages = self._size([build])
            own_pages -= len(self._instruction_pages)
            tokens = self._least_tokens(num_tokens + own_tokens, num_written + own_written)
            if packed and not shape.holds(tokens, num_pages + own_pages):
                if tokens - self._least_tokens(num_tokens, num_written) <= self._page_tokens:
                    break  # the row is as good as full: no need to look at the thousand others
                continue
            packed.append(build)
            num_tokens += own_tokens
            num_written += own_written
            num_pages += own_pages
        return packed

    def _fit(self, group: list[Build]) -> Shape:
        num_tokens, num_written, num_pages = self._size(group)
        return self._shapes.fit(self._least_tokens(num_tokens, num_written), num_pages)

    def _size(self, group: list[Build]) -> tuple[int, int, int]:
        """Tokens to compute, pages to write, and pages to read."""
        num_tokens = sum(build.num_fresh for build in group)
        num_written = sum(len(self._written_pages(build)) for build in group)
        grown = sum(self.directory.pool.pages_for(build.num_cached) for build in group)
        return num_tokens, num_written, len(self._instruction_pages) + grown

    def _least_tokens(self, num_tokens: int, num_written: int) -> int:
        """The fewest fresh tokens of a shape that can compute so many and write so many pages."""
        return max(num_tokens, ((num_written + 1) // 2 - 1) * self._page_tokens + 1)

    def _written_pages(self, build: Build) -> tuple[int, ...]:
        return tuple(build.cached.pages)[build.num_cached // self._page_tokens :]

    def no_writes(self, shape: Shape) -> tuple[np.ndarray, np.ndarray]:
        """The source and destination of a build pass of this shape that writes nothing.

        It can write twice the pages that its tokens fill, as blocks leave their last page partly so.
        """
        num = 2 * self.directory.pool.pages_for(shape.fresh_tokens)
        return np.full((num, self._page_tokens), -1, np.int32), np.zeros(num, np.int32)

    def _row(self, group: list[Build]) -> tuple[Row, list[tuple[int, ...]]]:
        """The instruction, then the blocks side by side: each sees the instruction and itself."""
        blocks: list[Block] = []
        sources: dict[int, Source] = {}
        table: list[tuple[int, ...]] = []
        if self._instruction_pages:
            blocks.append(self._instruction)
            sources[0] = Source(len(self._instruction))
            table.append(self._instruction_pages)
        start = blocks[0].end if blocks else 0
        for i, build in enumerate(group):
            block = build.block
            if build.num_cached:
                sources[len(blocks)] = Source(build.num_cached)
                table.append(tuple(build.cached.pages)[: self.directory.pool.pages_for(build.num_cached)])
            # Not `block.start`: that is where a prompt puts it, and KV is kept as computed after the instruction.
            blocks.append(Block(block.kind, block.token_ids, start, 1 + i, 1, block.owner))
        return Row(blocks, sources, (), self._page_tokens), table

    def _arrays(self, group: list[Build]) -> tuple[Any, np.ndarray, np.ndarray, Shape]:
        """The batch of a build pass, which token goes to which slot of which page, and the shape."""
        row, table = self._row(group)
        shape = self._fit(group)
        batch = assemble([row], [table], shape, self._page_tokens, 1)
        source, destination = self.no_writes(shape)
        at = token = 0
        for build in group:
            slots = np.full(len(build.cached.pages) * self._page_tokens, -1, np.int32)
            slots[build.num_cached : len(build.block)] = token + np.arange(build.num_fresh)
            pages = self._written_pages(build)
            source[at : at + len(pages)] = slots.reshape(-1, self._page_tokens)[-len(pages) :]
            destination[at : at + len(pages)] = pages
            at += len(pages)
            token += build.num_fresh
        return batch, source, destination, shape

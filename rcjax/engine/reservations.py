"""Reservations: pages for the blocks that a claim wants and that are not cached."""

import numpy as np

from rcjax.cache import BlockBusyError, BlockDirectory, CachedBlock
from rcjax.engine.build_pass import BuildPasses
from rcjax.engine.claim import Build, Claim
from rcjax.engine.cost import CostModel
from rcjax.engine.plan import PlannedBlock
from rcjax.errors import ResourceExhaustedError
from rcjax.prompt import Block


class Reservations:
    """Reserves all that a claim lacks, or nothing."""

    def __init__(self, cost: CostModel, directory: BlockDirectory, passes: BuildPasses):
        self._cost = cost
        self._directory = directory
        self._passes = passes

    def make(self, claim: Claim, missing: dict[bytes, PlannedBlock], *, may_wait: bool) -> list[Build] | None:
        """Pages for all of `missing`, and those of the claim's own; None where there are too few and it may wait.

        Raises `ResourceExhaustedError`, with nothing reserved, where there are too few and it may not.
        """
        grown = self._grow(claim)
        if grown is not None:
            return [grown]
        num_pages = claim.num_scratch_pages
        num_pages += sum(self._directory.pool.pages_for(len(wanted.block)) for wanted in missing.values())
        if num_pages > self._directory.num_available_pages:
            if may_wait:
                return None
            raise ResourceExhaustedError(
                f"{num_pages} pages are wanted and {self._directory.num_available_pages} can be had; retry later or "
                "enlarge cache.pool_bytes"
            )
        builds: list[Build] = []
        try:
            for wanted in missing.values():
                block = wanted.block
                cost_s = self._cost.build_s(len(block))
                cached = self._directory.reserve(
                    wanted.key, block.kind, block.owner, block.token_ids, cost_s, version=claim.version
                )
                builds.append(Build(block, cached, claim.version))
            if claim.num_scratch_pages:
                claim.scratch = self._directory.reserve_scratch(claim.num_scratch_pages)
        except BaseException:
            for build in builds:
                self._directory.abort(build.cached)
            raise
        return builds

    def _grow(self, claim: Claim) -> Build | None:
        """The block that a claim grows, where its beginning is cached, nobody reads that, and one pass can do it."""
        former = claim.grow_from
        if former is None:
            return None
        (wanted,) = claim.wanted
        block = wanted.block
        current = self._directory.current(block.kind, block.owner)
        if current is None or current.key != former.key or not self._can_extend(current, block):
            return None
        self._directory.pin(current)
        try:
            cost_s = self._cost.build_s(len(block))
            cached = self._directory.grow(current, wanted.key, block.token_ids, cost_s, version=claim.version)
        except (BlockBusyError, ResourceExhaustedError):
            self._directory.unpin(current)
            return None
        return Build(block, cached, claim.version, num_cached=len(former.block))

    def _can_extend(self, current: CachedBlock, block: Block) -> bool:
        num_cached = current.num_tokens
        num_fresh = len(block) - num_cached
        if num_fresh <= 0 or not np.array_equal(block.token_ids[:num_cached], current.token_ids):
            return False
        return self._passes.can_extend(num_fresh, len(current.pages))

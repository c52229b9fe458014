"""Slices of the tiny model on fake devices, which fetch from each other and from tiers; requests go to one by index."""

import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Future
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tiny_engine import ARMS, LIMITS, PAGE_TOKENS, choose_shapes_by_size, event, item, tiny_model, tiny_settings

from rcjax.cache.tiers import KVTiers
from rcjax.config import CacheSettings, MeshSettings, Settings, ShapeSettings
from rcjax.engine.compilation import use_compilation_cache
from rcjax.engine.cost import CostModel
from rcjax.engine.plan import Plan, PlannedBlock
from rcjax.engine.worker import SliceWorker
from rcjax.prompt import BlockKind, Owner, PromptBuilder
from rcjax.prompt.template import load_template
from rcjax.request import DeleteItems, PutItems, RecommendRequest, RecommendResult, Write
from rcjax.serving.mesh import engine_mesh
from rcjax.serving.peers import SlicePeers
from rcjax.serving.residency import Residency
from rcjax.serving.slices import SliceParts, new_worker, slice_parts
from rcjax.serving.startup import new_planner
from rcjax.serving.warm_up import warm_up

ARM = "parallel_anchor_blocks"
WATCHDOG_S = 120.0  # far beyond what anything here takes; a test that hangs fails by it


class DearBuilds(CostModel):
    """Knows only too well that building takes for ever, so that whatever can be fetched is."""

    def build_s(self, num_tokens: int) -> float:
        return 10.0 * num_tokens

    build_alone_s = build_s


@cache
def parts_of(num_slices: int, tensor: int = 1, kv_dtype: str = "auto") -> tuple[SliceParts, PromptBuilder, Settings]:
    """The compiled programs of so many slices."""
    settings = tiny_settings(
        Path(tempfile.mkdtemp(prefix="rcjax-slices-")),
        arms={ARM: ARMS[ARM]},
        default_arm=ARM,
        limits=LIMITS,
        mesh=MeshSettings(slices=num_slices, tensor=tensor),
        cache=CacheSettings(page_tokens=PAGE_TOKENS, pool_bytes=2**21, kv_dtype=kv_dtype),
        shapes=ShapeSettings(rank=((64, 64),), build=((48, 16), (128, 8)), generate=()),
    )
    use_compilation_cache(settings.compilation_cache_dir())
    model = tiny_model()
    builder = PromptBuilder(load_template(settings.template), model.tokenizer, settings.limits.max_candidates)
    parts = slice_parts(settings, model, builder, lambda step: None, engine_mesh(settings.mesh))
    choose_shapes_by_size(parts)
    planner = new_planner(settings, parts, builder)
    workers = [new_worker(settings, parts, planner, builder, index=index) for index in range(num_slices)]
    warm_up(settings, parts, workers, lambda step: None)
    return parts, builder, settings


class Slices:
    """Workers with their threads, a planner and a library. `close` stops them."""

    def __init__(
        self,
        num_slices: int = 2,
        *,
        tensor: int = 1,
        kv_dtype: str = "auto",
        num_pages: int | None = None,
        tiers: KVTiers | None = None,
        replica_share: float = 0.5,
        are_builds_dear: bool = True,
    ):
        self.parts, self.builder, self.settings = parts_of(num_slices, tensor, kv_dtype)
        self.tiers = tiers
        self.planner = new_planner(self.settings, self.parts, self.builder)
        self.residency = Residency(num_slices)
        self.workers = [self._worker(index, num_pages, are_builds_dear) for index in range(num_slices)]
        for index, worker in enumerate(self.workers):
            peers = SlicePeers(index, self.workers, self.residency) if num_slices > 1 else None
            worker.connect(peers=peers, tiers=tiers, replica_share=replica_share)
        for worker in self.workers:
            worker.start()

    def _worker(self, index: int, num_pages: int | None, are_builds_dear: bool) -> SliceWorker:
        worker = new_worker(
            self.settings,
            self.parts,
            self.planner,
            self.builder,
            index=index,
            num_pages=num_pages,
            on_commit=partial(self.residency.commit, index),
            on_evict=partial(self.residency.evict, index),
        )
        if are_builds_dear:
            executor, programs = worker.cache.executor, self.parts.programs
            executor.cost = DearBuilds(programs.config, self.parts.page_tokens, programs.format.page_bytes)
            worker.cache._reservations._cost = executor.cost
        nothing = jax.tree.map(np.array, worker.cache.executor.pages)
        for array in jax.tree.leaves(nothing):
            array[:, 1:] = 99 if array.dtype == np.int8 else np.nan  # so that a page that nobody wrote shows
        worker.cache.executor.pages = jax.device_put(nothing, worker.cache.executor._placed)
        worker.cache.build_instruction()
        return worker

    def plan(self, numbers: Sequence[int], events: Sequence[int] = (0,), text: str = "") -> Plan:
        items = tuple(item(number, text=text) for number in numbers)
        return self.plan_of(RecommendRequest(items, history=tuple(event(number) for number in events)))

    def plan_of(self, request: RecommendRequest) -> Plan:
        plan = self.planner.plan(request)
        self.planner.library.versions.end_read(plan.version)
        return plan

    def submit(self, index: int, plan: Plan) -> Future[RecommendResult]:
        return self.workers[index].submit(plan, arrival_s=time.monotonic())

    def rank(self, index: int, numbers: Sequence[int], events: Sequence[int] = (0,)) -> RecommendResult:
        """Of a request over inline items and events, by number."""
        return self.submit(index, self.plan(numbers, events)).result(WATCHDOG_S)

    def write(self, write: Write, on: Sequence[int]) -> None:
        """A write that builds on some slices and drops on all."""
        plan = self.planner.plan_write(write)
        for future in [self.workers[index].fill(plan.build, plan.version) for index in on]:
            future.result(WATCHDOG_S)
        self.planner.library.swap(plan)
        for future in [worker.drop(plan.drop, plan.version) for worker in self.workers]:
            future.result(WATCHDOG_S)
        self.planner.library.versions.end_write(plan.version)

    def put_items(self, numbers: Sequence[int], on: Sequence[int]) -> None:
        self.write(PutItems(tuple(item(number) for number in numbers)), on)

    def delete_items(self, numbers: Sequence[int]) -> None:
        self.write(DeleteItems(tuple(f"i{number}" for number in numbers)), ())

    def block(self, number: int) -> PlannedBlock:
        """An item, by number, as the library would have it."""
        one = item(number)
        ids = self.builder.item_ids(one)
        key = self.parts.keys.key(BlockKind.ITEM, Owner("", one.item_id), ids)
        return PlannedBlock(self.builder.block(BlockKind.ITEM, ids, Owner("", one.item_id)), key)

    def on(self, index: int, look: Any) -> Any:
        """What `look` says of a slice's worker, on its thread."""
        return self.workers[index].call(look).result(WATCHDOG_S)

    def evict_all(self, index: int) -> None:
        """Makes a slice evict whatever nobody reads, and waits until that is in the tiers."""

        def evict(worker: SliceWorker) -> None:
            scratch = worker.cache.directory.reserve_scratch(worker.cache.directory.num_available_pages)
            if worker.cache.spilling is not None:
                worker.cache.spilling.flush()
            worker.cache.directory.release(scratch)

        self.on(index, evict)
        deadline_s = time.monotonic() + WATCHDOG_S
        while self.tiers is not None and self.tiers.num_expected and time.monotonic() < deadline_s:
            time.sleep(0.001)

    def assert_idle(self) -> None:
        for index in range(len(self.workers)):
            pinned = self.on(index, lambda worker: worker.cache.directory.stats().pages_pinned)
            assert pinned == len(self.workers[index].cache.instruction_pages)
            self.on(index, lambda worker: worker.cache.directory.check_integrity())

    def close(self) -> None:
        for worker in self.workers:
            worker.stop(WATCHDOG_S)


def scores(result: RecommendResult) -> dict[str, float]:
    return {ranked.item_id: ranked.score for ranked in result.ranking}

"""What a router is made of: a planner, a library and a worker for each slice, as far as it knows them."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Protocol, runtime_checkable

from rcjax.prompt import Block, BlockKind, Owner, Prompt
from rcjax.request import GenerateRequest, RecommendRequest, RecommendResult, Write
from rcjax.serving.engine import RestoreResult, SnapshotResult


@runtime_checkable
class Planned(Protocol):
    """A plan (`rcjax.engine.plan.Plan`)."""

    @property
    def prompt(self) -> Prompt: ...

    @property
    def item_ids(self) -> tuple[str, ...]: ...

    @property
    def wanted(self) -> Any: ...

    @property
    def cost_s(self) -> float: ...

    @property
    def share_s(self) -> float: ...

    @property
    def full_pass_s(self) -> float: ...

    @property
    def version(self) -> int: ...


@runtime_checkable
class GenerationPlanned(Protocol):
    """A plan of what is to be continued (`rcjax.engine.generation_planner.GenerationPlan`)."""

    @property
    def source(self) -> Any: ...

    @property
    def sampling(self) -> Any: ...

    @property
    def wanted(self) -> Any: ...

    @property
    def cost_s(self) -> float: ...

    @property
    def version(self) -> int: ...


@runtime_checkable
class BlockToBuild(Protocol):
    """A block and its key (`rcjax.engine.plan.PlannedBlock`)."""

    @property
    def block(self) -> Block: ...

    @property
    def key(self) -> bytes: ...


@runtime_checkable
class WritePlanned(Protocol):
    """A write, planned (`rcjax.engine.plan.WritePlan`)."""

    @property
    def write(self) -> Write: ...

    @property
    def version(self) -> int: ...

    @property
    def build(self) -> Sequence[BlockToBuild]: ...

    @property
    def grow_from(self) -> BlockToBuild | None: ...

    @property
    def drop(self) -> Sequence[tuple[BlockKind, Owner]]: ...


@runtime_checkable
class Planner(Protocol):
    """Makes plans on any thread (`rcjax.engine.planner.Planner`); the router ends the versions that they read."""

    def plan(self, request: RecommendRequest) -> Any: ...

    def plan_generation(self, request: GenerateRequest) -> Any: ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text that tokens spell."""
        ...

    def plan_write(self, write: Write) -> Any: ...

    def item_block(self, owner: Owner) -> Any:
        """The block of an item as the library has it, None where it has none."""
        ...


@runtime_checkable
class Versions(Protocol):
    """Which versions of the library are read or written (`rcjax.engine.library`)."""

    @property
    def oldest(self) -> int: ...

    def begin_read(self) -> int: ...

    def begin_write(self) -> int: ...

    def end_read(self, version: int) -> None: ...

    def end_write(self, version: int) -> None: ...


@runtime_checkable
class Library(Protocol):
    """The items and users that plans are made of (`rcjax.engine.library.Library`)."""

    @property
    def num_items(self) -> int: ...

    @property
    def num_users(self) -> int: ...

    @property
    def item_owners(self) -> list[Owner]: ...

    @property
    def versions(self) -> Any: ...

    def user(self, tenant: str, user_id: str) -> Any:
        """What is known of a user, or None."""
        ...

    def swap(self, plan: Any) -> int:
        """The commit point of a write: plans made from now on see it. Returns how many items or users it deleted."""
        ...


@runtime_checkable
class Tiers(Protocol):
    """What slices evict to (`rcjax.cache.tiers.KVTiers`)."""

    @property
    def host_bytes_used(self) -> int: ...

    @property
    def disk_bytes_used(self) -> int: ...

    @property
    def num_corrupt(self) -> int: ...


@runtime_checkable
class Snapshotting(Protocol):
    """Takes and restores snapshots of a router (`rcjax.serving.snapshots.Snapshots`); calls block."""

    @property
    def counters(self) -> Any: ...

    def skip_last(self) -> None:
        """Takes none when it stops."""
        ...

    def stop(self) -> None: ...

    def take_one(self) -> SnapshotResult: ...

    def restore_one(self, number: int) -> RestoreResult:
        """The newest where `number` is 0."""
        ...


@runtime_checkable
class WorkerStats(Protocol):
    """Counters and gauges of one slice (`rcjax.engine.worker.WorkerStats`)."""

    @property
    def num_hits(self) -> int: ...

    @property
    def num_misses(self) -> int: ...

    @property
    def num_evictions(self) -> int: ...

    @property
    def pages_total(self) -> int: ...

    @property
    def pages_used(self) -> int: ...

    @property
    def pool_bytes(self) -> int: ...

    @property
    def num_replica_hits(self) -> int: ...

    @property
    def num_fetched(self) -> int: ...

    @property
    def num_from_host(self) -> int: ...

    @property
    def num_from_disk(self) -> int: ...

    @property
    def fetched_bytes(self) -> int: ...

    @property
    def from_host_bytes(self) -> int: ...

    @property
    def from_disk_bytes(self) -> int: ...

    @property
    def lent_bytes(self) -> int: ...

    @property
    def spilled_bytes(self) -> int: ...


@runtime_checkable
class Worker(Protocol):
    """One slice's worker (`rcjax.engine.worker.SliceWorker`): any thread calls it, and its own does the work.

    Its futures may be cancelled at any time. They fail with `UnavailableError` where the worker has ended or is
    stopped, and for nothing else. `lost` gets the exception that ended it, if one did.
    """

    @property
    def stats(self) -> Any: ...

    @property
    def lost(self) -> Any: ...

    def start(self) -> None: ...

    def stop(self, grace_s: float) -> None: ...

    def submit(self, plan: Any, *, arrival_s: float, deadline_s: float | None) -> Future[RecommendResult]: ...

    def fill(self, blocks: Sequence[Any], version: int) -> Future[int]: ...

    def grow(self, former: Any, block: Any, version: int) -> Future[int]: ...

    def drop(self, names: Sequence[tuple[BlockKind, Owner]], version: int) -> Future[int]: ...

    def generate(
        self, source: Any, sampling: Any, *, deadline_s: float | None = None, listener: Any = ...
    ) -> Future[list[int]]: ...

    def choose_orders(self, seed: int) -> Future[int]: ...

    def build_semantic_pool(self, seed: int) -> Future[int]: ...

    def call(self, task: Callable[[Any], Any]) -> Future[Any]: ...

    def forget_versions(self, before: int) -> None: ...

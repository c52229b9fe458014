"""What `rcjax plan` finds, as plain values."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Bytes on each device. `workspace` is an estimate, of the pass that needs most; the others are exact."""

    usable: int
    weights: int
    pool: int
    workspace: int
    workspace_of: str

    @property
    def needed(self) -> int:
        return self.weights + self.pool + self.workspace

    @property
    def free(self) -> int:
        return self.usable - self.needed


@dataclass(frozen=True, slots=True)
class PoolReport:
    """Of each slice: pages, and the bytes of one. Items alone, users alone, and each beside those that were named."""

    num_pages: int
    page_bytes: int
    token_bytes: float
    item_bytes: int
    history_bytes: int
    item_copies: float
    items_alone: int
    users_alone: int
    items: int
    users: int
    share_held: float


@dataclass(frozen=True, slots=True)
class TierReport:
    name: str
    num_bytes: int
    items_alone: int
    users_alone: int


@dataclass(frozen=True, slots=True)
class ArmReport:
    """The most candidates of a request, by mean lengths and by the longest texts that the limits allow."""

    name: str
    candidates: int
    longest_candidates: int
    fresh_tokens: int
    block_pages: int


@dataclass(frozen=True, slots=True)
class CatalogueSeconds:
    """For `num_items` and `num_users`; `basis` says what the building time is taken from."""

    num_items: int
    num_users: int
    num_tokens: int
    num_bytes: int
    build_s: float
    restore_s: float
    basis: str


@dataclass(frozen=True, slots=True)
class Sizing:
    """What a deployment takes and holds. It cannot work where there are `refusals`."""

    model: str
    device: str
    num_slices: int
    tensor: int
    dtype: str
    kv_dtype: str
    attention: str
    num_programs: int
    memory: DeviceMemory
    pool: PoolReport
    tiers: tuple[TierReport, ...]
    arms: tuple[ArmReport, ...]
    seconds: CatalogueSeconds
    notes: tuple[str, ...]
    refusals: tuple[str, ...]

    @property
    def num_devices(self) -> int:
        return self.num_slices * self.tensor

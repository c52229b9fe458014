"""`rcjax plan`: what a deployment takes and holds, as tables and as JSON."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import jax
from pydantic import ByteSize, TypeAdapter, ValidationError
from rich.console import Console
from rich.table import Table

from rcjax.cluster.simulation.costs import CostTable, PassSize
from rcjax.config import Settings
from rcjax.disk import write_whole
from rcjax.model.spec import load_config
from rcjax.serving.sizing import MODELLED, TIMED, BuildRate, Sizing, Traffic, chip_of, size_deployment

FORMAT = "rcjax.plan.1"
_SEES = 256  # tokens that a built one sees, as the simulator takes it: about an instruction and half an item


@dataclass(frozen=True, slots=True)
class Given:
    """What the command line says; None: the default."""

    device: str = "cpu"
    device_bytes: str | None = None
    memory_fraction: float | None = None
    item_tokens: float | None = None
    history_tokens: float | None = None
    num_items: int | None = None
    num_users: int | None = None
    costs: Path | None = None
    disk_bytes_per_s: str = "2GB"

    @property
    def traffic(self) -> Traffic:
        defaults = Traffic()
        return Traffic(
            item_tokens=self.item_tokens or defaults.item_tokens,
            history_tokens=self.history_tokens or defaults.history_tokens,
            num_items=self.num_items,
            num_users=self.num_users,
        )


def run_plan(console: Console, settings: Settings, given: Given, *, json_file: Path | None = None) -> bool:
    """Prints the plan, and why it cannot work, if it cannot; returns whether it can. ValueError on wrong options."""
    # Shapes alone are worked out, and a GPU must not be taken from the server that runs on it.
    jax.config.update("jax_platforms", "cpu")
    memory_bytes = None if given.device_bytes is None else _size("--device-bytes", given.device_bytes)
    chip = chip_of(given.device, settings.mesh.num_devices, memory_bytes=memory_bytes, share=given.memory_fraction)
    sizing = size_deployment(
        settings,
        load_config(settings.model, settings.adapter),
        chip,
        given.traffic,
        timed=None if given.costs is None else _timed(CostTable.load(given.costs), settings),
        disk_bytes_per_s=_size("--disk-rate", given.disk_bytes_per_s),
    )
    console.print(_title(sizing), highlight=False, markup=False, soft_wrap=True)
    for table in (memory_table(sizing), pool_table(sizing, given.traffic), arm_table(sizing)):
        console.print(table)
    console.print(_seconds_line(sizing), highlight=False, markup=False)
    for note in sizing.notes:
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
    for reason in sizing.refusals:
        console.print(f"cannot work: {reason}", style="red", highlight=False, markup=False, soft_wrap=True)
    if json_file:
        fields = {"format": FORMAT, "works": not sizing.refusals, "num_devices": sizing.num_devices} | asdict(sizing)
        write_whole(json_file, json.dumps(fields, indent=2) + "\n")
    return not sizing.refusals


def _title(sizing: Sizing) -> str:
    num_slices, tensor = sizing.num_slices, sizing.tensor
    devices = f"{num_slices} {'slices' if num_slices > 1 else 'slice'} of {tensor} x {sizing.device}"
    what = f"weights in {sizing.dtype}, KV in {sizing.kv_dtype}, attention {sizing.attention}"
    return f"{sizing.model} on {sizing.num_devices} devices ({devices}): {what}"


def memory_table(sizing: Sizing) -> Table:
    """Bytes on each device."""
    table = Table(title="memory", title_justify="left")
    table.add_column("on each device")
    table.add_column("GiB", justify="right")
    memory = sizing.memory
    rows = {
        "weights": memory.weights,
        f"pages, {sizing.pool.num_pages:,} a slice": memory.pool,
        f"largest pass ({memory.workspace_of}), estimated": memory.workspace,
        "left of what JAX may use": memory.free,
    }
    for name, num_bytes in rows.items():
        table.add_row(name, f"{num_bytes / 2**30:.2f}")
    return table


def pool_table(sizing: Sizing, traffic: Traffic) -> Table:
    """What pools and tiers hold, of items alone and of users alone."""
    pool = sizing.pool
    table = Table(title="what they hold", title_justify="left")
    for heading in ("", "GiB", f"items of {traffic.item_tokens:g} tokens", f"or users of {traffic.history_tokens:g}"):
        table.add_column(heading, justify="right" if heading else "left")
    pool_bytes = pool.num_pages * pool.page_bytes * sizing.num_slices
    name = "the pool"
    if sizing.num_slices > 1:
        name = f"{sizing.num_slices} pools, {pool.item_copies:g} of which have an item, all a history"
    table.add_row(name, f"{pool_bytes / 2**30:.1f}", f"{pool.items_alone:,}", f"{pool.users_alone:,}")
    if traffic.num_items is not None or traffic.num_users is not None:
        table.add_row(f"together, {pool.share_held:.0%} of it at once", "", f"{pool.items:,}", f"and {pool.users:,}")
    for tier in sizing.tiers:
        table.add_row(tier.name, f"{tier.num_bytes / 2**30:.1f}", f"{tier.items_alone:,}", f"{tier.users_alone:,}")
    table.add_row(
        f"bytes of one (a token: {pool.token_bytes:,.0f})", "", f"{pool.item_bytes:,}", f"{pool.history_bytes:,}"
    )
    return table


def arm_table(sizing: Sizing) -> Table:
    """What a request of each arm may have."""
    table = Table(title="candidates of a request", title_justify="left")
    table.add_column("arm")
    for heading in ("of mean length", "fresh tokens", "pages", "of the longest"):
        table.add_column(heading, justify="right")
    for arm in sizing.arms:
        table.add_row(
            arm.name, f"{arm.candidates}", f"{arm.fresh_tokens:,}", f"{arm.block_pages:,}", f"{arm.longest_candidates}"
        )
    return table


def _seconds_line(sizing: Sizing) -> str:
    s = sizing.seconds
    return (
        f"{s.num_items:,} items and {s.num_users:,} users, {s.num_tokens:,} tokens: built in {s.build_s:,.1f} s "
        f"({s.basis}), or {s.num_bytes / 2**30:.1f} GiB restored in {s.restore_s:,.1f} s ({MODELLED})\n"
        f"about {sizing.num_programs} programs are compiled at start, for each slice"
    )


def _timed(table: CostTable, settings: Settings) -> BuildRate:
    largest = max(settings.shapes.build, key=lambda shape: shape.fresh_tokens * shape.batch)
    tokens = largest.fresh_tokens * largest.batch
    return BuildRate(tokens / table.pass_s(PassSize(tokens, 0, tokens * _SEES)), f"{TIMED}: {table.source}")


def _size(option: str, text: str) -> int:
    try:
        num_bytes = int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError as error:
        raise ValueError(f"{option}={text!r} is no size; write it as 80GiB or 2GB") from error
    if num_bytes < 1:
        raise ValueError(f"{option}={text!r} must be at least one byte")
    return num_bytes

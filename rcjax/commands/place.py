"""Placements from a log of requests, and the table of what they reach."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from rcjax.cache.placement import (
    HashMethod,
    HotSet,
    HypergraphMethod,
    MetisMethod,
    OverlapMethod,
    PlacementInput,
    PlacementMethod,
    PlacementReport,
    RequestLog,
    StreamingMethod,
    evaluate,
    request_matrix,
    similar_items,
)
from rcjax.cache.placement.method import ProgressSink
from rcjax.catalog import Item
from rcjax.config import Settings, read_catalogue
from rcjax.serving.progress import noted


def method_of(name: str, hot: HotSet) -> PlacementMethod:
    """The method of that name; `overlap` takes the hot set's budget, the others the hot set."""
    methods: dict[str, PlacementMethod] = {
        "hash": HashMethod(hot),
        "metis": MetisMethod(hot),
        "hypergraph": HypergraphMethod(hot),
        "streaming": StreamingMethod(hot),
        "overlap": OverlapMethod(hot.budget_factor or 1.0),
    }
    return methods[name]


def run_place(
    console: Console,
    settings: Settings,
    method: PlacementMethod,
    *,
    log_file: Path,
    out: Path,
    slices: int,
    held_out: float,
    unknown: str,
    seed: int,
) -> None:
    """Places the catalogue's items by the log, writes the placement, and prints what it reaches.

    With `held_out` above 0 a second placement, learnt without that last part of the log, is tested on it. ValueError
    where the log has too few requests.
    """
    tell = noted(console)
    items = read_catalogue(settings.catalogue, tell=tell).items
    log = RequestLog.load(log_file, progress=True)
    if log.num_dropped:
        tell(f"left out the oldest {log.num_dropped:,} requests: {len(log):,} are the most that are learnt from")
    requests, num_skipped = request_matrix(log, {item_id: n for n, item_id in enumerate(items)}, unknown=unknown)
    if num_skipped:
        tell(f"left out {num_skipped:,} references to items that the catalogue lacks")
    num_held = int(requests.shape[0] * held_out)
    num_learnt = requests.shape[0] - num_held
    if num_learnt < 1 or (held_out and num_held < 1):
        raise ValueError(f"{log_file}: {requests.shape[0]} requests are too few to hold out {held_out:g} of them")
    with _steps(console) as steps:
        similarity = None if method.name == "hash" else similar_items(map(item_text, items.values()), steps)
        given = PlacementInput(tuple(items), text_bytes(items), requests, slices, similarity, seed)
        reports = {}
        if num_held:
            tested = method.place(given.with_requests(requests[:num_learnt]), steps)
            reports["held out"] = evaluate(tested, requests[num_learnt:], given.item_bytes)
        start_s = time.perf_counter()
        placement = method.place(given, steps)
        wall_s = time.perf_counter() - start_s
        reports["learnt from"] = evaluate(placement, requests, given.item_bytes)
    placement.save(out)
    title = f"{method.name}: {len(items):,} items on {slices} slices, in {wall_s:.1f} s"
    console.print(report_table(reports, title=title))
    console.print(f"wrote {out}, fingerprint {placement.fingerprint[:16]}", markup=False, highlight=False)


def item_text(item: Item) -> str:
    """What similarity and size are taken from: the fields that templates show."""
    return " ".join((item.title, item.description, item.brand, *item.categories))


def text_bytes(items: Mapping[str, Item]) -> np.ndarray:
    """UTF-8 bytes of each item's text, to which the bytes of its block are in proportion; at least 1."""
    return np.array([max(len(item_text(item).encode("utf-8", "replace")), 1) for item in items.values()], np.float64)


def report_table(reports: Mapping[str, PlacementReport], *, title: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("requests")
    for name, report in reports.items():
        table.add_column(f"{name} ({report.num_requests:,})", justify="right")
    rows = {
        "items that the best slice has": [f"{report.hit_share:.1%}" for report in reports.values()],
        "the same, no slice over 1.2 of the mean load": [f"{r.bounded_hit_share:.1%}" for r in reports.values()],
        "slices touched": [f"{report.slices_touched:.2f}" for report in reports.values()],
        "largest load over the mean, at best slices": [f"{report.load_imbalance:.2f}" for report in reports.values()],
        "largest slice over the mean, bytes": [f"{report.memory_imbalance:.3f}" for report in reports.values()],
        "bytes over the catalogue's": [f"{report.budget_factor:.3f}" for report in reports.values()],
        "text bytes of the largest slice": [f"{report.max_slice_bytes:,.0f}" for report in reports.values()],
    }
    for name, cells in rows.items():
        table.add_row(name, *cells)
    return table


@contextmanager
def _steps(console: Console) -> Iterator[ProgressSink]:
    """A progress bar for what a method tells."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=1.0)
        yield lambda step, share: bar.update(task, description=step, completed=share)

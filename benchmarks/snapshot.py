"""Snapshots of a server: how fast one is restored, against the disk and against computing it anew, and what requests
feel of one that is being taken.

    python benchmarks/snapshot.py --json snapshot.json

The embedded model and shop behind arm `parallel` (or --config) on whatever device there is. Rounds of each comparison
alternate, each arm first in turn. Before something is read from the disk, the operating system is told to forget its
pages (`posix_fadvise`, which needs no rights); the plain read, of the same files and by one thread in pieces of 8 MiB,
gets that too. A restore ends when the pages are written. Requests come at random times (Poisson) at --load of what one
after the other could answer, whatever the answers do; TTFT is the server's, and the time from when a request was due
until it was sent. Snapshots are taken one after the other, each of everything, at the pace of a server's.
"""

import argparse
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from claims import Claim, environment, show_claims, write_report
from pydantic import ByteSize
from rich.console import Console

from rcjax.catalog import Catalogue
from rcjax.config import CacheSettings, Settings, ShapeSettings, load_settings, read_catalogue
from rcjax.config.arms import EMBEDDED_ARMS
from rcjax.config.shapes import EMBEDDED_SHAPES
from rcjax.request import RecommendRequest, RecommendResult
from rcjax.serving.filling import fill
from rcjax.serving.local import LocalEngine
from rcjax.serving.snapshots import Snapshots, restore, save
from rcjax.serving.startup import start_engine

EMBEDDED = Settings(
    adapter=None,
    cache=CacheSettings(pool_bytes=ByteSize(5 * 2**29)),
    shapes=ShapeSettings(
        rank=(*(shape for shape in EMBEDDED_SHAPES.rank if shape.tiles == 20), (64, 192)), build=EMBEDDED_SHAPES.build
    ),
    arms={"parallel": EMBEDDED_ARMS["parallel"]},
    default_arm="parallel",
)
READ_BYTES = 2**23
RESTORE_SHARE, RESTORE_SPEED_UP, TTFT_RATIO = 0.7, 10.0, 1.5


def main() -> None:
    args = parsed()
    settings = load_settings(args.config) if args.config else EMBEDDED
    print(environment())
    catalogue = limited(read_catalogue(settings.catalogue), args.items, args.users)
    engine = start_engine(settings, progress=print)
    folder = Path(tempfile.mkdtemp(prefix="snapshot-", dir=args.folder))
    try:
        with engine:
            start_s = time.perf_counter()
            filled = fill(engine, catalogue, Console(quiet=True))
            build_s = time.perf_counter() - start_s
            saved = timed_saves(engine, folder / "one")
            if saved["num_blocks"] != filled.num_built:  # else less would be restored than was computed
                raise RuntimeError(f"of {filled.num_built} blocks {saved['num_blocks']} fit; take a larger pool")
            reads, restores = restore_rounds(engine, catalogue, folder / "one", args.rounds)
            ttft = ttft_rounds(engine, catalogue, folder, args)
    finally:
        shutil.rmtree(folder)
    num_bytes = saved["num_bytes"]
    read_share = float(np.median(reads) / np.median(restores))
    speed_up = build_s / float(np.median(restores))
    p99 = {name: float(np.percentile(values, 99)) for name, values in ttft.items()}
    claims = [
        Claim("restore's bytes a second over the disk's", read_share, RESTORE_SHARE),
        Claim("seconds to compute over seconds to restore", speed_up, RESTORE_SPEED_UP),
        Claim(
            "P99 TTFT during snapshots over that without", p99["during"] / p99["without"], TTFT_RATIO, at_least=False
        ),
    ]
    print(f"{filled.num_items} items, {filled.num_users} users, {num_bytes / 1e6:,.1f} MB of KV")
    print(f"computed in {build_s:.2f} s")
    print(f"saved in {saved['first_s']:.2f} s; again, with nothing new, in {saved['again_s']:.3f} s")
    for name, seconds in (("read plainly", reads), ("restored", restores)):
        print(f"{name}: {spread(seconds)} s, {num_bytes / np.median(seconds) / 1e6:,.0f} MB/s")
    for name, values in ttft.items():
        p50 = np.percentile(values, 50)
        print(f"TTFT {name}: P50 {p50:.2f} ms, P99 {p99[name]:.2f} ms of {len(values)} requests")
    show_claims(claims)
    if args.json:
        raw = {"build_s": build_s, "saved": saved, "read_s": reads, "restore_s": restores, "ttft_ms": ttft}
        write_report(args.json, {"args": {name: str(value) for name, value in vars(args).items()}, **raw}, claims)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, help="settings; the embedded model, shop and arm `parallel` by default")
    parser.add_argument("--folder", type=Path, help="on the disk to measure; the system's temporary one by default")
    parser.add_argument("--items", type=int, default=300)
    parser.add_argument("--users", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=400, help="of each arm and round")
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--load", type=float, default=0.4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def limited(catalogue: Catalogue, num_items: int, num_users: int) -> Catalogue:
    items = dict(list(catalogue.items.items())[:num_items])
    return Catalogue(items, dict(list(catalogue.users.items())[:num_users]))


def timed_saves(engine: LocalEngine, where: Path) -> dict[str, Any]:
    start_s = time.perf_counter()
    first = save(engine, where)
    first_s = time.perf_counter() - start_s
    again = save(engine, where)
    return {
        "first_s": first_s,
        "again_s": time.perf_counter() - start_s - first_s,
        "num_blocks": first.num_blocks,
        "num_bytes": first.num_bytes,
        "rewritten_bytes": again.written_bytes,
    }


def restore_rounds(
    engine: LocalEngine, catalogue: Catalogue, where: Path, num_rounds: int
) -> tuple[list[float], list[float]]:
    """Seconds of plain reads of the snapshot's files, and of restores into an emptied engine, by turns."""
    files = [path for path in where.rglob("*") if path.is_file()]
    reads: list[float] = []
    restores: list[float] = []

    def read() -> None:
        forget(files)
        start_s = time.perf_counter()
        for path in files:
            read_plainly(path)
        reads.append(time.perf_counter() - start_s)

    def bring_back() -> None:
        empty(engine, catalogue)
        forget(files)
        start_s = time.perf_counter()
        report = restore(engine, where)
        wait_for_pages(engine)
        restores.append(time.perf_counter() - start_s)
        if report.corrupt or report.num_skipped or report.num_items != len(catalogue.items):
            raise RuntimeError(f"not all was restored: {report}")

    for round_ in range(num_rounds + 1):  # the first warms up
        for take in (read, bring_back) if round_ % 2 == 0 else (bring_back, read):
            take()
    return reads[1:], restores[1:]


def wait_for_pages(engine: LocalEngine) -> None:
    for worker in engine.router.workers:
        worker.call(lambda _, executor=worker.cache.executor: executor.check()).result()


def empty(engine: LocalEngine, catalogue: Catalogue) -> None:
    engine.delete_items(catalogue.items)
    for user_id in catalogue.users:
        engine.delete_user(user_id)


def forget(files: Sequence[Path]) -> None:
    """Has the operating system drop what it keeps of the files."""
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_plainly(path: Path) -> None:
    buffer = bytearray(READ_BYTES)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def ttft_rounds(
    engine: LocalEngine, catalogue: Catalogue, folder: Path, args: argparse.Namespace
) -> dict[str, list[float]]:
    """TTFT in milliseconds with no snapshot under way, and with one after the other of everything, by turns."""
    rng = np.random.default_rng(args.seed)
    ids, users = list(catalogue.items), list(catalogue.users)

    def ask() -> RecommendRequest:
        return RecommendRequest(tuple(rng.choice(ids, args.candidates, replace=False)), str(rng.choice(users)))

    alone = [ttft_ms(engine.recommend([ask()])[0]) for _ in range(40)]
    mean_gap_s = float(np.median(alone[10:])) / 1e3 / args.load
    found: dict[str, list[float]] = {"without": [], "during": []}
    for round_ in range(args.rounds):
        for name in ("without", "during") if round_ % 2 == 0 else ("during", "without"):
            requests = [ask() for _ in range(args.requests)]
            gaps_s = rng.exponential(mean_gap_s, args.requests)
            if name == "without":
                found[name] += offered(engine, requests, gaps_s)
            else:
                found[name] += during_snapshots(engine, requests, gaps_s, folder)
    return found


def during_snapshots(
    engine: LocalEngine, requests: Sequence[RecommendRequest], gaps_s: np.ndarray, folder: Path
) -> list[float]:
    is_over = threading.Event()

    def take() -> None:
        number = 0
        while not is_over.is_set():
            number += 1
            where = folder / f"during-{number}"
            Snapshots(engine.router, where).take()  # at the pace of a server's
            shutil.rmtree(where)

    thread = threading.Thread(target=take)
    thread.start()
    try:
        return offered(engine, requests, gaps_s)
    finally:
        is_over.set()
        thread.join()


def offered(engine: LocalEngine, requests: Sequence[RecommendRequest], gaps_s: np.ndarray) -> list[float]:
    """TTFT in an open loop: each request is sent when it is due, whatever became of those before."""
    due_s = time.perf_counter()
    futures, late_ms = [], []
    for request, gap_s in zip(requests, gaps_s, strict=True):
        due_s += gap_s
        time.sleep(max(0.0, due_s - time.perf_counter()))
        late_ms.append((time.perf_counter() - due_s) * 1e3)
        futures.append(engine.router.submit(request))
    return [late + ttft_ms(future.result()) for late, future in zip(late_ms, futures, strict=True)]


def ttft_ms(result: RecommendResult | Exception) -> float:
    if isinstance(result, Exception):
        raise result
    return result.times.ttft_ms


def spread(seconds: Sequence[float]) -> str:
    return f"{np.median(seconds):.3f} ({min(seconds):.3f}-{max(seconds):.3f}, n={len(seconds)})"


if __name__ == "__main__":
    main()

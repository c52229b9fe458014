"""A soak: half an hour of requests while items and users change; nothing may grow, slow down or be wrong.

    python benchmarks/soak.py --json soak.json
    python benchmarks/soak.py --minutes 3        # what CI runs: `make soak`

`rcjax serve` with the embedded model (or --model) in float32 and a pool of about half of what the shop has, so that it
evicts; a snapshot every 30 s; the load (benchmarks/soak_load.py) comes through gRPC from another process. Every answer
of one of its callers is compared with full recompute of the same request. The first quarter of the time is warm-up;
what is flat is so over the other three: resident memory of the server (/proc, each second; the median of a quarter),
tokens of cached blocks that were there and not built for the request, and TTFT P50. In less than `QUIET_MINUTES`, as on
the busy machine that CI may be, only errors and leaks decide: memory may grow by `SHORT_RSS_GROWTH`, and the other two
are told alone. Ends with 1 where a claim fails.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from claims import Claim, show_claims, write_report
from soak_load import FIRST_ITEM, soak

from rcjax.catalog import Catalogue, Item
from rcjax.catalog.jsonl import write_catalogue
from rcjax.config import Settings

QUIET_MINUTES = 10.0
RSS_CHANGE = 0.02  # of the last quarter, as a share of the second
SHORT_RSS_GROWTH = 0.25  # a quarter of 45 s is as long as one step of 64-128 MiB of the allocator
FLAT = 0.10  # of hit share and of TTFT P50: the range over the last three quarters, as a share of its middle
QUARTERS = 4
SNAPSHOT_EVERY_S = 30.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--model", default=Settings().model)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write figures and claims here")
    parser.add_argument("--load", nargs=2, metavar="HOST:PORT", help=argparse.SUPPRESS)  # the other process
    args = parser.parse_args()
    if args.load:
        print(json.dumps(asyncio.run(soak(*args.load, args.minutes, args.seed))))
        return
    with tempfile.TemporaryDirectory(prefix="soak-") as folder, serving(Path(folder), args.model) as server:
        report = measure(server, args)
    claims = claims_of(report, args.minutes)
    show(report, args.minutes)
    show_claims(claims)
    if args.json:
        write_report(args.json, {"benchmark": "soak", "minutes": args.minutes, **report}, claims)
    if not all(claim.holds for claim in claims):
        sys.exit(1)


class ServerProcess:
    """`rcjax serve`, and what it takes of memory."""

    def __init__(self, folder: Path, model: str):
        self.folder = folder
        write_catalogue(Catalogue({FIRST_ITEM: Item(FIRST_ITEM, "Tea mug")}, {}), folder / "shop")
        config = folder / "soak.yaml"
        config.write_text(yaml.safe_dump(settings(model)))
        self.log = folder / "log"
        with self.log.open("w") as errors:
            self.popen = subprocess.Popen(
                [Path(sys.executable).with_name("rcjax"), "serve", "--config", config],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        words = self._until("listening on").split()
        self.main, self.admin = words[2], words[4].rstrip(");")
        print(self._until("ready"))

    def _until(self, beginning: str) -> str:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            if line.startswith(beginning):
                return line.strip()
        raise RuntimeError(f"the server ended before it said {beginning!r}: {self.log.read_text()}")

    def rss_bytes(self) -> int:
        (line,) = [line for line in Path(f"/proc/{self.popen.pid}/status").read_text().splitlines() if "VmRSS" in line]
        return int(line.split()[1]) * 1024

    def num_snapshots(self) -> int:
        """Taken so far: the highest number."""
        return max((int(path.stem) for path in (self.folder / "snapshots" / "snapshots").glob("*[0-9]*")), default=0)


@contextmanager
def serving(folder: Path, model: str) -> Iterator[ServerProcess]:
    server = ServerProcess(folder, model)
    try:
        yield server
    finally:
        server.popen.terminate()
        server.popen.communicate(timeout=120)


def settings(model: str) -> dict[str, Any]:
    parallel = {"layout": "parallel", "scoring": "anchor"}
    return {
        "model": model,
        "adapter": None,
        "dtype": "float32",
        "catalogue": {"format": "jsonl", "paths": {"folder": "shop"}},
        "cache": {"page_tokens": 16, "pool_bytes": "128MiB"},
        "limits": {"max_candidates": 6, "max_item_tokens": 128, "max_history_tokens": 384},
        "arms": {
            "parallel": parallel,
            "parallel-full": parallel | {"reuse": "none"},
            "prefix": {"reuse": "prefix"},
            "prefix-full": {"reuse": "none"},
        },
        "default_arm": "parallel",
        "shapes": {"rank": [[64, 96], [384, 48], [768, 0], [1024, 0]], "build": [[64, 32], [512, 16]]},
        "server": {"port": 0, "admin_port": 0},
        "telemetry": {"max_rpc_lines_per_s": 0},
        "snapshot": {"where": "snapshots", "every_s": SNAPSHOT_EVERY_S},
    }


def measure(server: ServerProcess, args: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "--load", server.main, server.admin]
    command += ["--minutes", str(args.minutes), "--seed", str(args.seed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as load:
        assert load.stdout is not None
        lines = iter(load.stdout)
        if next(lines, "") != "begins\n":
            raise RuntimeError("the load failed; what it said is above")
        memory = Memory(server)
        if next(lines, "") != "ends\n":
            raise RuntimeError("the load failed; what it said is above")
        samples = memory.stop()
        num_snapshots = server.num_snapshots()
        report = json.loads(next(lines))
    return report | {"rss_bytes": samples, "num_snapshots": num_snapshots}


class Memory:
    """Samples the server's memory each second on a thread of its own."""

    def __init__(self, server: ServerProcess):
        self._server = server
        self._samples: list[int] = []
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> list[int]:
        self._is_over.set()
        self._thread.join()
        return self._samples

    def _run(self) -> None:
        while not self._is_over.wait(1.0):
            self._samples.append(self._server.rss_bytes())


def quarters(report: dict[str, Any], minutes: float) -> dict[str, list[float]]:
    """By name, a figure for each quarter of the time."""
    at_s, ttft_ms, cached, built = np.array(report["answers"]).T
    which = np.minimum(at_s // (60.0 * minutes / QUARTERS), QUARTERS - 1).astype(int)
    of = [which == number for number in range(QUARTERS)]
    return {
        "RSS, MiB": [percentile(some, 50) / 2**20 for some in np.array_split(report["rss_bytes"], QUARTERS)],
        "hit share": [1.0 - float(built[one].sum() / max(cached[one].sum(), 1)) for one in of],
        "TTFT P50, ms": [percentile(ttft_ms[one], 50) for one in of],
        "TTFT P99, ms": [percentile(ttft_ms[one], 99) for one in of],
        "answers": [float(one.sum()) for one in of],
    }


def percentile(values: np.ndarray, percent: float) -> float:
    """NaN, which no claim holds of, where there are none: a machine may have stood still for a quarter."""
    return float(np.percentile(values, percent)) if len(values) else float("nan")


def claims_of(report: dict[str, Any], minutes: float) -> list[Claim]:
    of = quarters(report, minutes)
    before, after = report["empty_pages"]
    claims = [
        Claim("wrong scores or answers", len(report["wrong"]), 0, at_least=False),
        Claim("answers compared with full recompute", len(report["differences"]), max(1.0, minutes)),
        Claim("failed calls", len(report["failures"]), 0, at_least=False),
        Claim("pages that an empty shop uses more than before", after - before, 0, at_least=False),
        Claim("calls that slices still have", report["num_under_way"], 0, at_least=False),
        Claim("evictions", report["num_evictions"], 1),
        Claim("snapshots", report["num_snapshots"], 1),
        Claim("compilations", report["num_compilations"], 0, at_least=False),
    ]
    growth = of["RSS, MiB"][-1] / of["RSS, MiB"][1] - 1.0
    if minutes < QUIET_MINUTES:
        return [*claims, Claim("RSS: growth from the second quarter to the last", growth, SHORT_RSS_GROWTH, False)]
    return [
        *claims,
        Claim("RSS: change from the second quarter to the last", abs(growth), RSS_CHANGE, at_least=False),
        Claim("hit share: range after the first quarter", relative_range(of["hit share"][1:]), FLAT, at_least=False),
        Claim("TTFT P50: range after the first quarter", relative_range(of["TTFT P50, ms"][1:]), FLAT, at_least=False),
    ]


def relative_range(values: Sequence[float]) -> float:
    return (max(values) - min(values)) / float(np.median(values))


def show(report: dict[str, Any], minutes: float) -> None:
    print(f"{minutes:g} minutes: {report['calls']}, {report['num_snapshots']} snapshots")
    for name, values in quarters(report, minutes).items():
        print(f"{name}, by quarter: {', '.join(f'{value:,.3g}' if value < 1 else f'{value:,.1f}' for value in values)}")
    differences = report["differences"]
    print(
        f"{len(differences)} answers compared with full recompute: at most {max(differences):.1e} of the scores apart"
    )
    for problem in (*report["wrong"][:5], *report["failures"][:5]):
        print(f"PROBLEM: {problem}")


if __name__ == "__main__":
    main()

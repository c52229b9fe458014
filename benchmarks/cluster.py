"""A cluster of Ray on this machine: how requests scale with hosts, what the way to a host costs, and kills under load.

    python benchmarks/cluster.py --json cluster.json        # --sizes 1 2 4, --requests 160, --rounds 3, --kills 10

The embedded model and shop, `parallel`, each item on one host.

Scaling: passes take a set time and no processor (benchmarks/paced_devices.py), as if each host had a device of its
own; four requests a host are under way. The simulator's prediction of the same run stands beside it. Overhead: one
request at a time, in turn by a cluster of one host and by an engine of this process, with passes of 120 ms and of 10.
Kills: hosts compute their passes; requests come at a fixed rate while one host after the other gets SIGKILL; what
admission refuses is tried again when it says, as clients do. Every answer is compared with one process's.
A killed host's requests are those under way; they are timed from the kill, against the P99 while all lived.
"""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from claims import Claim, show_claims, write_report
from cluster_bed import fill, running
from cluster_kills import kills
from cluster_scaling import scaling
from paced_devices import PacedDevices, paced
from paced_host import FastHostActor, PacedHostActor

from rcjax.serving.startup import start_engine


def overhead(num_requests: int, host: type[PacedHostActor]) -> dict[str, Any]:
    """Milliseconds from a request to its answer, one at a time, by a cluster of one such host and in this process."""
    samples: dict[str, list[float]] = {"cluster": [], "in process": []}
    with (
        running(1, host, num_requests) as cluster,
        paced(PacedDevices(**host.devices)),
        start_engine(cluster.settings) as own,
    ):
        fill(own, num_requests)
        engines = {"cluster": cluster.engine, "in process": own}
        for ask in cluster.asks[:4]:
            for engine in engines.values():
                engine.router.submit(ask).result()
        for ask in cluster.asks:
            for name, engine in engines.items():
                start_s = time.perf_counter()
                engine.router.submit(ask).result()
                samples[name].append((time.perf_counter() - start_s) * 1e3)
    pass_ms = 1e3 * (host.devices["begin_s"] + host.devices["row_s"])
    p50_ms = {name: float(np.median(times)) for name, times in samples.items()}
    return {"pass_ms": pass_ms, "samples_ms": samples, "p50_ms": p50_ms}


def claims_of(report: dict[str, Any]) -> list[Claim]:
    found = []
    rows = {row["num_hosts"]: row for row in report["scaling"]}
    first, last = rows[min(rows)], rows[max(rows)]
    if len(rows) > 1:
        name = f"requests/s of {last['num_hosts']} hosts, times those of {first['num_hosts']}"
        target = 0.9 * last["num_hosts"] / first["num_hosts"]
        found.append(Claim(name, float(np.median(last["per_s"]) / np.median(first["per_s"])), target))
    for row in rows.values():
        off = abs(row["predicted_per_s"] / np.median(row["per_s"]) - 1)
        name = f"{row['num_hosts']} hosts: simulated requests/s over measured, off by"
        found.append(Claim(name, float(off), 0.2, at_least=False))
    for row in report["overhead"]:
        name = f"P50 of a cluster of one less one process's, passes of {row['pass_ms']:.0f} ms, ms"
        found.append(Claim(name, row["p50_ms"]["cluster"] - row["p50_ms"]["in process"], 3, at_least=False))
    if (kill := report.get("kills")) is not None:
        found.append(Claim("wrong or lost answers", kill["num_wrong"] + len(kill["lost"]), 0, at_least=False))
        if kill["under_way_s"]:
            ratio = max(kill["under_way_s"]) / kill["normal_p99_s"]
            found.append(Claim("the last of a killed host's requests, in normal P99", ratio, 2, at_least=False))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write samples and claims here")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 4], help="hosts of each cluster that is scaled")
    parser.add_argument("--requests", type=int, default=160, help="of each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kills", type=int, default=10, help="0 leaves them out")
    args = parser.parse_args()
    # Hosts find this folder's modules as this process does.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    report: dict[str, Any] = {"benchmark": "cluster", "scaling": [], "overhead": []}
    for size in args.sizes:
        report["scaling"].append(scaling(size, args.requests, args.rounds))
        print(report["scaling"][-1], flush=True)
    for host in (PacedHostActor, FastHostActor):
        report["overhead"].append(overhead(args.requests, host))
        print(report["overhead"][-1]["pass_ms"], report["overhead"][-1]["p50_ms"], flush=True)
    if args.kills:
        report["kills"] = kills(args.kills, min(args.requests, 40))
        print({name: value for name, value in report["kills"].items() if name != "under_way_s"}, flush=True)
    claims = claims_of(report)
    show_claims(claims)
    if args.json:
        write_report(args.json, report, claims)


if __name__ == "__main__":
    main()

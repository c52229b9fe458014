"""What the comparison with a peer says: statistics of its rounds, claims, and the table that is printed."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from claims import Claim
from rich.console import Console
from rich.table import Table

OWN_ARMS = ("full", "rcjax", "parallel")
LOAD_ARMS = ("rcjax", "parallel")
PEER, PEER_COLD = "vllm", "vllm cold"  # its prefix cache holding instruction and history; and holding nothing
TOKEN_KINDS = ("cached", "selected", "fresh", "prompt_len")

Values = dict[str, Any]


def summarise(rounds: Sequence[Values]) -> Values:
    """Statistics of a dtype's rounds by arm; the peer's arms only where the rounds have them.

    A round is `{"own": {"alone": {arm: rows}, "load": {arm: run}}, "peer": {"alone": rows, "load": run}}`.
    """
    own = [one["own"] for one in rounds]
    peer = [one["peer"] for one in rounds if "peer" in one]
    alone = {arm: _own_alone([one["alone"][arm] for one in own]) for arm in OWN_ARMS}
    load = {arm: of_load([one["load"][arm] for one in own]) for arm in LOAD_ARMS}
    if peer:
        rows = [one["alone"] for one in peer]
        alone[PEER] = of_times([[row["warm_ms"] for row in chunk] for chunk in rows]) | {"tokens": _peer_tokens(rows)}
        cold = [[row | {"cached": 0} for row in chunk] for chunk in rows]
        alone[PEER_COLD] = of_times([[row["cold_ms"] for row in chunk] for chunk in rows]) | {
            "tokens": _peer_tokens(cold)
        }
        load[PEER] = of_load([one["load"] for one in peer])
    return {"alone": alone, "load": load}


def of_times(rounds_ms: Sequence[Sequence[float]]) -> Values:
    """P50, P99 and the spread of times: of all, and of the rounds' medians."""
    samples = np.concatenate([np.asarray(one, np.float64) for one in rounds_ms])
    medians = [float(np.median(one)) for one in rounds_ms if len(one)]
    return {
        "n": len(samples),
        "p50_ms": float(np.median(samples)),
        "p99_ms": float(np.percentile(samples, 99)),
        "min_ms": float(samples.min()),
        "max_ms": float(samples.max()),
        "rounds_p50_ms": medians,
        "samples_ms": samples.tolist(),
    }


def of_load(rounds: Sequence[Values]) -> Values:
    """Requests per second, of which the median round counts, and the latencies of all rounds."""
    rates = [len(one["latencies_ms"]) / one["wall_s"] for one in rounds]
    return of_times([one["latencies_ms"] for one in rounds]) | {
        "requests_per_s": float(np.median(rates)),
        "rounds_requests_per_s": rates,
    }


def _own_alone(chunks: Sequence[Sequence[Values]]) -> Values:
    rows = [row for chunk in chunks for row in chunk]
    return of_times([[row["ttft_ms"] for row in chunk] for chunk in chunks]) | {
        "tokens": {kind: float(np.mean([row[kind] for row in rows])) for kind in TOKEN_KINDS},
        "pass_ms": float(np.median([row["pass_ms"] for row in rows])),
    }


def _peer_tokens(chunks: Sequence[Sequence[Values]]) -> dict[str, float]:
    rows = [row for chunk in chunks for row in chunk]
    cached, prompt_len = (float(np.mean([row[kind] for row in rows])) for kind in ("cached", "prompt_len"))
    return {"cached": cached, "selected": 0.0, "fresh": prompt_len - cached, "prompt_len": prompt_len}


def claims_of(dtypes: Mapping[str, Values]) -> list[Claim]:
    """What the figures must reach. Claims about the peer are absent where it was not measured."""
    claims = []
    for dtype, values in dtypes.items():
        p50 = {arm: one["p50_ms"] for arm, one in values["alone"].items()}
        if PEER in p50:
            claims += [
                Claim(f"{dtype}: parallel, P50 TTFT, times below vLLM", p50[PEER] / p50["parallel"], 10),
                Claim(f"{dtype}: rcjax (boundary(first=4)), P50 TTFT, times below vLLM", p50[PEER] / p50["rcjax"], 4),
                Claim(f"{dtype}: full, times vLLM's cold prompt", p50["full"] / p50[PEER_COLD], 1.25, at_least=False),
            ]
        if dtype == "bfloat16":
            load = values["load"]
            if PEER in load:
                ratio = load["parallel"]["requests_per_s"] / load[PEER]["requests_per_s"]
                claims.append(Claim(f"{dtype}: parallel under load, requests/s, times vLLM's", ratio, 20))
            tail = load["parallel"]["p99_ms"] / load["parallel"]["p50_ms"]
            claims.append(Claim(f"{dtype}: parallel under load, P99 over P50", tail, 4, at_least=False))
    return claims


def show(console: Console, report: Values) -> None:
    for dtype, values in report["dtypes"].items():
        n = values["alone"][OWN_ARMS[0]]["n"]
        alone = _table(f"{report['model']}, {dtype}: TTFT one at a time, n={n}", TOKEN_KINDS[:-1])
        for arm, one in values["alone"].items():
            tokens = [f"{one['tokens'][kind]:,.0f}" for kind in TOKEN_KINDS[:-1]]
            alone.add_row(arm, *_times(one), *tokens)
        load = _table(f"{dtype}: {report['concurrency']} requests under way", ("n", "requests/s", "rounds"))
        for arm, one in values["load"].items():
            rates = one["rounds_requests_per_s"]
            rate = [f"{one['requests_per_s']:,.2f}", f"{min(rates):,.2f}-{max(rates):,.2f}"]
            load.add_row(arm, *_times(one), str(one["n"]), *rate)
        console.print(alone)
        console.print(load)


def _table(title: str, others: Sequence[str]) -> Table:
    table = Table(title=title)
    for column in ("arm", "P50 ms", "P99 ms", "rounds' P50", *others):
        table.add_column(column, justify="left" if column == "arm" else "right")
    return table


def _times(values: Values) -> list[str]:
    rounds = values["rounds_p50_ms"]
    return [f"{values['p50_ms']:,.0f}", f"{values['p99_ms']:,.0f}", f"{min(rounds):,.0f}-{max(rounds):,.0f}"]

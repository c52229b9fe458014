"""What benchmarks/simulate.py claims of policies: ratios of TTFT, paired by seed, and their intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from claims import Claim
from scipy import stats

FROM_LOAD = 0.7
AFFINITY_MARGIN, HIT_ONLY_MARGIN = 0.9, 2.0
Cells = Mapping[tuple[float, str], Sequence[Mapping[str, Any]]]  # (load, policy): figures by seed


@dataclass(frozen=True, slots=True)
class Ratio:
    """The geometric mean of one policy's figure over another's, paired by seed, with its interval of 95%."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    logs = np.log(np.asarray(ours) / np.asarray(theirs))
    half = 0.0
    if len(logs) > 1:
        half = float(stats.t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / np.sqrt(len(logs)))
    centre = float(logs.mean())
    return Ratio(*np.exp([centre, centre - half, centre + half]).tolist())


def of(cells: Cells, load: float, policy: str, figure: str) -> list[float]:
    return [one["ttft_s"][figure] for one in cells[load, policy]]


def best_affinity(cells: Cells, loads: Sequence[float], figure: str) -> str:
    """The affinity of the least figure, in the geometric mean over loads and seeds."""
    names = dict.fromkeys(policy for _, policy in cells if policy.startswith("affinity"))
    return min(names, key=lambda name: sum(np.log(of(cells, load, name, figure)).mean() for load in loads))


def ratios(cells: Cells, mine: str) -> list[dict[str, Any]]:
    """A row for each load, figure and other policy; `affinity` with its best alpha there."""
    rows = []
    others = [
        p for p in dict.fromkeys(policy for _, policy in cells) if p in ("round_robin", "least_loaded", "hit_only")
    ]
    for load in dict.fromkeys(load for load, _ in cells):
        for figure in ("mean", "p99"):
            for other in (*others, best_affinity(cells, [load], figure)):
                found = ratio(of(cells, load, mine, figure), of(cells, load, other, figure))
                rows.append({"load": load, "figure": figure, "policy": mine, "other": other, "ratio": found})
    return rows


def policy_claims(cells: Cells, mine: str, said: str) -> list[Claim]:
    """The issue's bars for a policy. It is worse than another only where the whole interval lies above 1."""
    claims = []
    rows = ratios(cells, mine)
    for load in dict.fromkeys(row["load"] for row in rows):
        for figure in ("mean", "p99"):
            worst = max((r for r in rows if r["load"] == load and r["figure"] == figure), key=lambda r: r["ratio"].low)
            name = f"{said}: {figure} TTFT at {load:.0%} over {worst['other']}'s, low end of {worst['ratio']}"
            claims.append(Claim(name, worst["ratio"].low, 1.0, at_least=False))
    late = [load for load in dict.fromkeys(load for load, _ in cells) if load >= FROM_LOAD]
    fixed = best_affinity(cells, late, "p99") if late else ""
    for load in late:
        mine_s = of(cells, load, mine, "p99")
        found = ratio(mine_s, of(cells, load, fixed, "p99"))
        name = f"{said}: P99 at {load:.0%} over {fixed}'s, the best for all loads from 70%, {found}"
        claims.append(Claim(name, found.value, AFFINITY_MARGIN, at_least=False))
        found = ratio(of(cells, load, "hit_only", "p99"), mine_s)
        claims.append(
            Claim(f"{said}: hit_only's P99 at {load:.0%} over its own, {found}", found.value, HIT_ONLY_MARGIN)
        )
    return claims

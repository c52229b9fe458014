"""The paper's studies as pictures: policies over load, arms, sizes and budgets."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

COLOURS = {
    "time": "#173f6b",
    "greedy": "#c2571a",
    "affinity": "#5f9e6e",
    "least_loaded": "#9db8d9",
    "round_robin": "#b8b8b8",
    "hit_only": "#9c7bb8",
    "full": "#b8b8b8",
    "prefix": "#9db8d9",
    "rcjax": "#5f9e6e",
    "parallel": "#173f6b",
}


def draw(report: dict[str, Any], path: Path) -> None:
    """A panel for each study that the report has."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels: list[Callable[[Any], None]] = []
    for name in ("policies", "linked"):
        if name in report:
            panels += [lambda panel, n=name, f=f: policies(panel, report[n]["cells"], f, n) for f in ("mean", "p99")]
    studies = {"arms": arms, "scale": scale, "budget": budget}
    panels += [lambda panel, d=d, n=n: d(panel, report[n]) for n, d in studies.items() if n in report]
    num_columns = min(len(panels), 3)
    num_rows = -(-len(panels) // num_columns)
    size = (3.9 * num_columns, 3.6 * num_rows)
    figure, axes = plt.subplots(num_rows, num_columns, figsize=size, layout="constrained", squeeze=False)
    for panel, paint in zip(axes.flat, panels, strict=False):
        paint(panel)
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False, fontsize=7)
    for panel in axes.flat[len(panels) :]:
        panel.set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def policies(panel: Any, cells: Sequence[dict[str, Any]], figure: str, name: str) -> None:
    by_policy: dict[str, dict[float, np.ndarray]] = {}
    for cell in cells:
        values = np.array([one["ttft_s"][figure] for one in cell["runs"]])
        by_policy.setdefault(cell["policy"], {})[cell["load"]] = 1e3 * values
    affinities = [policy for policy in by_policy if policy.startswith("affinity")]
    loads = list(next(iter(by_policy.values())))
    best = {load: min((by_policy[policy][load] for policy in affinities), key=np.mean) for load in loads}
    shown = {policy: of for policy, of in by_policy.items() if policy not in affinities} | {"affinity": best}
    for policy, of_load in shown.items():
        means = [of_load[load].mean() for load in loads]
        label = "affinity, its best at each load" if policy == "affinity" else policy
        panel.plot(loads, means, marker="o", ms=3, color=COLOURS[policy], label=label)
        low, high = [of_load[load].min() for load in loads], [of_load[load].max() for load in loads]
        panel.fill_between(loads, low, high, color=COLOURS[policy], alpha=0.15, linewidth=0)
    panel.set(yscale="log", xlabel="load", ylabel=f"{figure} TTFT, ms", title=f"{name}: {figure}")


def arms(panel: Any, rows: Sequence[dict[str, Any]]) -> None:
    for row in rows:
        quantiles = 1e3 * np.array(row["ttft_quantiles_s"])
        panel.plot(quantiles, np.linspace(0, 1, len(quantiles)), color=COLOURS[row["arm"]], label=row["arm"])
    panel.set(xscale="log", xlabel="TTFT, ms", ylabel="share of requests", title="arms at one rate")
    panel.minorticks_off()


def scale(panel: Any, rows: Sequence[dict[str, Any]]) -> None:
    for arm, policy in dict.fromkeys((row["arm"], row["policy"]) for row in rows):
        mine = [row for row in rows if (row["arm"], row["policy"]) == (arm, policy)]
        sizes = [row["num_slices"] for row in mine]
        colour = COLOURS["prefix" if arm == "prefix" else policy]
        for figure, style in (("p50", "-"), ("p99", ":")):
            times = [1e3 * row["ttft_s"][figure] for row in mine]
            panel.plot(sizes, times, style, marker="o", ms=3, color=colour, label=f"{arm}, {policy}, {figure.upper()}")
    panel.set(xscale="log", yscale="log", xlabel="slices", ylabel="TTFT, ms", title="scale")


def budget(panel: Any, rows: Sequence[dict[str, Any]]) -> None:
    shares = list(dict.fromkeys(row["recomputed"] for row in rows))
    for figure, style in (("p50", "-"), ("p99", ":")):
        times = [1e3 * np.mean([r["ttft_s"][figure] for r in rows if r["recomputed"] == share]) for share in shares]
        panel.plot(shares, times, style, marker="o", ms=3, color=COLOURS["time"], label=figure.upper())
    panel.set(yscale="log", xlabel="share of cached tokens computed anew", ylabel="TTFT, ms", title="budget")

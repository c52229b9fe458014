"""Times of benchmarks/kernels.py's arms as a picture, or the bytes of their model where nothing was timed."""

from pathlib import Path
from typing import Any

from kernel_work import FULL, GATHER_CUDNN, GATHER_XLA, KERNEL

COLOURS = {KERNEL: "#173f6b", GATHER_XLA: "#3f78b5", GATHER_CUDNN: "#9db8d9", FULL: "#b8b8b8"}


def draw(report: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = report["rows"]
    figure, axes = plt.subplots(figsize=(2 + 1.6 * len(rows), 4.5), layout="constrained")
    is_timed = all("arms" in row for row in rows)
    for place, (arm, colour) in enumerate(COLOURS.items()):
        values = [_microseconds(row, arm) if is_timed else row["model"][arm]["num_bytes"] / 1e6 for row in rows]
        x = [number + (place - 1.5) * 0.2 for number in range(len(rows))]
        axes.bar(x, [value or 0 for value in values], 0.19, color=colour, label=arm)
        for at, value in zip(x, values, strict=True):
            if value is not None:
                axes.annotate(f"{value:,.0f}", (at, value), (0, 2), textcoords="offset points", ha="center", fontsize=7)
    labels = [f"{row['shape']}\n{row['dtype']} / {row['kv_dtype']}" for row in rows]
    axes.set_xticks(range(len(rows)), labels, fontsize=8)
    axes.set_yscale("log")
    axes.set_ylabel("µs a layer" if is_timed else "MB a layer, modelled")
    axes.set_title(f"One layer's attention; {report['kind']}")
    axes.legend(frameon=False, ncols=4)
    axes.margins(y=0.2)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=144)
    plt.close(figure)


def _microseconds(row: dict[str, Any], arm: str) -> float | None:
    found = [values["p50_s"] * 1e6 for name, values in row["arms"].items() if name.startswith(arm)]
    return found[0] if found else None

"""Hit share over bytes and over locality, as a picture."""

from pathlib import Path
from typing import Any

COLOURS = {
    "hash": "#b8b8b8",
    "streaming": "#9c7bb8",
    "metis": "#9db8d9",
    "hypergraph": "#5f9e6e",
    "overlap": "#173f6b",
}
MARKS = {"hash": "s", "streaming": "v", "metis": "o", "hypergraph": "^", "overlap": "D"}


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    traces = list(
        dict.fromkeys(row["trace"] for row in rows if "kind" not in row and row["trace"] != "beauty, no text")
    )
    has_local = any(row.get("kind") == "groups" for row in rows)
    num_panels = len(traces) + has_local
    figure, panels = plt.subplots(
        1, num_panels, figsize=(3.6 * num_panels, 3.9), layout="constrained", sharey=True, squeeze=False
    )
    for panel, trace in zip(panels[0], traces, strict=False):
        _lines(panel, [row for row in rows if row["trace"] == trace], "factor")
        panel.set_title(trace)
        panel.set_xlabel("bytes of all slices / catalogue")
    if has_local:
        _lines(panels[0][-1], [row for row in rows if row.get("kind") == "groups"], "locality")
        panels[0][-1].set_title("100 slices, 1.25x")
        panels[0][-1].set_xlabel("share drawn from one neighbourhood")
    panels[0][0].set_ylabel("items that the best slice has (held out)")
    panels[0][0].set_ylim(0, 1)
    panels[0][0].legend(frameon=False, loc="upper left")
    figure.savefig(path, dpi=144)
    plt.close(figure)


def _lines(panel: Any, rows: list[dict[str, Any]], x: str) -> None:
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = sorted((row for row in rows if row["method"] == method), key=lambda row: row[x])
        values = [row["hit_share"] for row in mine]
        panel.plot([row[x] for row in mine], values, color=COLOURS[method], marker=MARKS[method], label=method, ms=5)
        spread = [row.get("hit_shares", [row["hit_share"]]) for row in mine]
        low, high = [min(v) for v in spread], [max(v) for v in spread]
        panel.fill_between([row[x] for row in mine], low, high, color=COLOURS[method], alpha=0.15, linewidth=0)
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)

"""The comparison with a peer as a picture: TTFT one at a time, and requests per second, on log axes."""

from pathlib import Path
from typing import Any

from peer_report import LOAD_ARMS, OWN_ARMS, PEER, PEER_COLD

ALONE = (PEER_COLD, "full", PEER, "rcjax", "parallel")
LOAD = (PEER, *LOAD_ARMS)
NAMES = {PEER: "vLLM,\nhistory cached", PEER_COLD: "vLLM,\nnothing cached"} | {arm: arm for arm in OWN_ARMS}
COLOURS = {PEER: "#b8b8b8", PEER_COLD: "#8a8a8a", "full": "#9db8d9", "rcjax": "#3f78b5", "parallel": "#173f6b"}
HATCHES = {"float32": "", "bfloat16": "//"}


def draw(report: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), width_ratios=(5, 3), layout="constrained")
    _bars(left, report, ALONE, "alone", "p50_ms")
    left.set_title("Time to first ranked item, one at a time (P50, whisker to P99)")
    left.set_ylabel("ms")
    _bars(right, report, LOAD, "load", "requests_per_s")
    right.set_title(f"{report['concurrency']} requests under way")
    right.set_ylabel("requests/s")
    dtypes = list(report["dtypes"])
    patches = [Patch(facecolor="white", edgecolor="black", hatch=HATCHES[dtype], label=dtype) for dtype in dtypes]
    left.legend(handles=patches, frameon=False)
    figure.suptitle(
        f"{report['model']}, {report['prompt_tokens']['mean']:,.0f} tokens a prompt, {report['cores']} cores"
    )
    figure.savefig(path, dpi=144)
    plt.close(figure)


def _bars(axes: Any, report: dict[str, Any], arms: tuple[str, ...], part: str, key: str) -> None:
    dtypes = list(report["dtypes"])
    width = 0.8 / len(dtypes)
    shown = [arm for arm in arms if any(arm in report["dtypes"][dtype][part] for dtype in dtypes)]
    for shift, dtype in enumerate(dtypes):
        for place, arm in enumerate(shown):
            if arm not in report["dtypes"][dtype][part]:
                continue
            values = report["dtypes"][dtype][part][arm]
            x = place + (shift - (len(dtypes) - 1) / 2) * width
            axes.bar(x, values[key], width * 0.94, color=COLOURS[arm], edgecolor="black", hatch=HATCHES[dtype])
            top = values[key]
            if key == "p50_ms":
                top = values["p99_ms"]
                axes.plot([x, x], [values[key], top], color="black", linewidth=1)
            text = f"{values[key]:,.0f}" if values[key] >= 10 else f"{values[key]:.2g}"
            axes.annotate(text, (x, top), (0, 3), textcoords="offset points", ha="center", fontsize=8)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.yaxis.set_minor_formatter(lambda value, _: "")
    axes.set_xticks(range(len(shown)), [NAMES[arm] for arm in shown], fontsize=9)
    axes.margins(y=0.15)
    axes.spines[["top", "right"]].set_visible(False)

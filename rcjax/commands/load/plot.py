"""Latency and goodput over the rate of requests."""

from collections.abc import Sequence
from pathlib import Path

from rcjax.commands.load.figures import NAMES, LoadFigures
from rcjax.disk import writing


def write_plot(path: Path, found: Sequence[LoadFigures], *, slo_ms: float, title: str) -> None:
    """Two panels: percentiles of TTFT and of end-to-end time above, answers and goodput below."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(2, 1, sharex=True, figsize=(8, 7), layout="constrained")
    above.set_title(title, fontsize=10, loc="left")
    answered = [one for one in found if one.num_answered]
    rates = [one.rate_per_s for one in answered]
    for name, style in zip(NAMES, ("-", "--", ":"), strict=True):
        above.plot(rates, [one.latency_ms[name] for one in answered], f"C0o{style}", label=f"end-to-end {name.upper()}")
        above.plot(rates, [one.ttft_ms[name] for one in answered], f"C1o{style}", label=f"TTFT {name.upper()}")
    above.axhline(slo_ms, color="0.5", linewidth=1, label=f"SLO {slo_ms:g} ms")
    above.set_yscale("log")
    above.set_ylabel("ms, from when a request was due")
    every = [one.rate_per_s for one in found]
    below.plot(every, every, color="0.8", label="sent")
    below.plot(every, [one.answered_per_s for one in found], "C0o-", label="answered")
    below.plot(every, [one.goodput_per_s for one in found], "C2o-", label="within the SLO")
    below.set_ylabel("requests/s")
    below.set_xlabel("requests sent a second")
    for axes in (above, below):
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    with writing(path):
        figure.savefig(path, dpi=150)
    pyplot.close(figure)

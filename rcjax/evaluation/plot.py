"""Accuracy against the share of the prompt that is computed, and the arms that nobody beats in both."""

import textwrap
from collections.abc import Iterator, Mapping
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rcjax.disk import writing
from rcjax.evaluation.gate import METRIC
from rcjax.evaluation.summary import ArmSummary, Estimate
from rcjax.evaluation.teacher import TEACHER, UNDISTILLED

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = (".png", ".svg", ".pdf")


def check_plot(path: Path) -> None:
    """ValueError where the plot could not be written: said before the measurement, not after."""
    if path.suffix not in FORMATS:
        raise ValueError(f"{path}: a plot's name must end in one of {', '.join(FORMATS)}")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ValueError("a plot needs matplotlib; install rcjax[plot], or leave --plot out") from error


def pareto_front(arms: Mapping[str, ArmSummary]) -> list[str]:
    """The arms for which no other is at least as good in both fresh share and NDCG@10 and better in one."""

    def is_beaten(name: str) -> bool:
        fresh, ndcg = points[name]
        return any(f <= fresh and n >= ndcg and (f, n) != (fresh, ndcg) for f, n in points.values())

    points = {name: (summary.tokens.fresh, summary.metrics[METRIC].value) for name, summary in arms.items()}
    return sorted((name for name in points if not is_beaten(name)), key=lambda name: points[name])


def write_plot(
    path: Path, arms: Mapping[str, ArmSummary], lines: Mapping[str, float], title: str, *, has_teacher: bool = False
) -> None:
    """Two panels over the fresh share: NDCG@10 with its interval, and the difference to the reference with its own.

    A Pareto front is drawn for each full recompute and the arms that are compared with it; with a teacher
    among the arms, one for its own (`rcjax.evaluation.teacher` names them) and one for its student's.

    The intervals above are those of the means, which scatter together; whether an arm differs from its reference is
    for the panel below to say. `lines` are drawn across: chance, baselines, the best possible.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(
        2, 1, sharex=True, figsize=(10, 7.5), height_ratios=(3, 2), layout="constrained"
    )
    above.set_title(textwrap.fill(title, 80), fontsize=10, loc="left")
    _draw_quality(above, arms, lines, _groups(arms, has_teacher))
    _draw_differences(below, arms, "the teacher" if has_teacher else "full recompute")
    with writing(path):
        figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _draw_quality(
    axes: "Axes",
    arms: Mapping[str, ArmSummary],
    lines: Mapping[str, float],
    groups: Mapping[str, Mapping[str, ArmSummary]],
) -> None:
    for (name, value), style in zip(lines.items(), cycle((":", "--", "-.", (0, (1, 4)))), strict=False):
        axes.axhline(value, color="0.5", linestyle=style, linewidth=1, label=f"{name} {value:.3f}")
    fronts = {reference: pareto_front(group) for reference, group in groups.items()}
    for name, summary, colour in _coloured(arms):
        size = 8 if any(name in front for front in fronts.values()) else 5
        label = f"{name} {summary.metrics[METRIC].value:.3f}"
        _draw_point(axes, summary, summary.metrics[METRIC], colour, markersize=size, label=label)
    for (reference, front), style in zip(fronts.items(), cycle(("-", "--")), strict=False):
        fresh = [*(arms[name].tokens.fresh for name in front), 1.0]
        quality = [*(arms[name].metrics[METRIC].value for name in front), arms[front[-1]].metrics[METRIC].value]
        label = f"Pareto front, {reference} (large points)"
        axes.step(fresh, quality, where="post", color="0.2", linestyle=style, linewidth=1, zorder=0, label=label)
    axes.set_ylabel("NDCG@10 (95% interval)")
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _draw_differences(axes: "Axes", arms: Mapping[str, ArmSummary], reference: str) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter

    axes.axhline(0.0, color="0.5", linestyle=":", linewidth=1)
    for _, summary, colour in _coloured(arms):
        if summary.differences:
            _draw_point(axes, summary, summary.differences[METRIC], colour, markersize=5)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("share of the prompt's tokens that the pass computes (fresh and selected)")
    axes.set_ylabel(f"difference to {reference}\n(95% paired interval)")


def _draw_point(axes: "Axes", summary: ArmSummary, metric: Estimate, colour: Any, **style: Any) -> None:
    reach = [[metric.value - metric.low], [metric.high - metric.value]]
    face = colour if summary.reference else "white"  # full recompute is hollow
    axes.errorbar(
        summary.tokens.fresh, metric.value, reach, marker="o", color=colour, markerfacecolor=face, capsize=3, **style
    )


def _groups(arms: Mapping[str, ArmSummary], has_teacher: bool) -> dict[str, dict[str, ArmSummary]]:
    """By each full recompute: it and the arms that are compared with it, which show the model the same prompt.

    Where a teacher is the reference, its own cached arms are one group, and the student's the other.
    """
    if has_teacher:
        before = {name: summary for name, summary in arms.items() if name == TEACHER or name.startswith(UNDISTILLED)}
        after = {name: summary for name, summary in arms.items() if name not in before}
        return {"without distillation": before, "distilled": after}
    references = dict.fromkeys(summary.reference for summary in arms.values() if summary.reference)
    return {
        reference: {name: summary for name, summary in arms.items() if reference in (name, summary.reference)}
        for reference in references
    }


def _coloured(arms: Mapping[str, ArmSummary]) -> Iterator[tuple[str, ArmSummary, Any]]:
    from matplotlib import colormaps

    # The ten strong colours, then their ten light ones.
    colours = [colormaps["tab20"](number) for number in (*range(0, 20, 2), *range(1, 20, 2))]
    for (name, summary), colour in zip(arms.items(), cycle(colours), strict=False):
        yield name, summary, colour

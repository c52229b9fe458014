"""What a demo found as one page that needs nothing else: no script, no font, no picture from elsewhere."""

from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import NamedTuple

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from rcjax.commands.demo.report import DemoReport
from rcjax.commands.demo.tables import SHOWN_EVENTS, TOP_K, arm_text, labelled, ordinal, quality_lines
from rcjax.commands.report import ttft_percentiles
from rcjax.serving.explanation_drawing import lanes_svg, legend_html, strip_svg


class Bar(NamedTuple):
    """A length to be drawn, as a share of the longest, and what is written beside it."""

    name: str
    share: float
    value: str
    detail: str = ""
    kind: str = "arm"  # or bound


def page(report: DemoReport) -> str:
    """The page's HTML."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = files("rcjax.commands.demo").joinpath("page.html.j2").read_text("utf-8")
    quality, first = report.quality, report.shown[0]
    ranking = first.answers[quality.cached].result.ranking
    in_full = {ranked.item_id: ranked.rank for ranked in first.answers[quality.full].result.ranking}
    longest = max(prompt.tokens.prompt_len for prompt in report.prompts.values())
    user = report.shop.users[first.request.user_id]
    return environment.from_string(template).render(
        report=report,
        user=user,
        last_events=user.events[-SHOWN_EVENTS:][::-1],
        ranking=ranking[:TOP_K],
        chosen=next(ranked for ranked in ranking if ranked.item_id == first.request.target),
        in_full=in_full,
        ordinal=ordinal,
        prompts={arm: (prompt.tokens, Markup(strip_svg(prompt, longest))) for arm, prompt in report.prompts.items()},
        arm_text=arm_text,
        lanes=Markup(lanes_svg(report.prompts[quality.cached])),
        legend=Markup(legend_html()),
        times=list(_times(report)),
        qualities=list(_qualities(report)),
        lines=[*quality_lines(quality), *([report.note] if report.note else [])],
    )


def _times(report: DemoReport) -> Iterator[Bar]:
    p50: Mapping[str, float] = {arm: ttft_percentiles(of_arm)["p50"] for arm, of_arm in report.answers.items()}
    longest = max(p50.values())
    for arm, ms in p50.items():
        yield Bar(arm, ms / longest, f"{ms:,.0f} ms", f"{longest / ms:.1f}x as fast" if ms < longest else "")


def _qualities(report: DemoReport) -> Iterator[Bar]:
    rows = labelled(report.quality)
    highest = max(row.ndcg for row in rows.values())
    for name, row in rows.items():
        took = f"{row.num_requests:,} requests" + ("" if row.seconds is None else f" in {row.seconds:,.1f} s")
        interval = "" if row.interval is None else " [{:.2f}, {:.2f}]".format(*row.interval)
        kind = "bound" if row.seconds is None else "arm"
        yield Bar(name, row.ndcg / highest, f"{row.ndcg:.3f}{interval}", took, kind)

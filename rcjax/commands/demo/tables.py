"""What the demo prints of a request and of the quality."""

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from rcjax.catalog import Catalogue, User
from rcjax.commands.demo.quality import Quality, Row
from rcjax.commands.demo.report import DemoReport, Shown
from rcjax.commands.report import Answer, arm_table, ranking_table, stage_table, ttft_percentiles
from rcjax.config import ArmSettings, Settings
from rcjax.evaluation.arms import arm_order, baselines
from rcjax.evaluation.gate import METRIC
from rcjax.prompt import Layout, Reuse

TABLE_WIDTH = 72  # of the widest table; in a narrower terminal lines say the most of it
TOP_K = 5
SHOWN_EVENTS = 4
INTRODUCTION = """\
A shop asks a language model to rank candidates for a shopper. The prompt is an instruction, the shopper's history and \
the candidates' texts. Ways ("arms") to the first answer, in the same engine:"""
REUSED = {
    Reuse.NONE: "computes every token, as without a cache",
    Reuse.INSTRUCTION: "takes the KV of the instruction from the cache",
    Reuse.PREFIX: "takes the KV of instruction and history from the cache",
    Reuse.BLOCKS: "takes the items' KV from the cache too",
}


def show_request(
    console: Console, number: str, shown: Shown, shop: Catalogue, settings: Settings, cached: str, full: str
) -> None:
    """The shopper's past, the items that the cached arm puts first with their places in full, and the arms' times."""
    request = shown.request
    console.rule(f"[bold]{number}[/]: shopper {request.user_id}", align="left")
    console.print(history_text(shop.users[request.user_id]), markup=False, highlight=False)
    ranking = shown.answers[cached].result.ranking
    in_full = {ranked.item_id: ranked.rank for ranked in shown.answers[full].result.ranking}
    title = f"top {TOP_K} of {len(ranking)} candidates by {escape(cached)} (→ the one chosen next)"
    if console.width >= TABLE_WIDTH:
        places = {"in full": in_full}
        console.print(ranking_table(ranking[:TOP_K], shop.items, title=title, chosen=request.target, places=places))
    else:
        console.print(title)
        for ranked in ranking[:TOP_K]:
            mark = "→" if ranked.item_id == request.target else " "
            line = f"{mark} {ranked.rank}. {shop.items[ranked.item_id].title} ({in_full[ranked.item_id]} in full)"
            console.print(line, markup=False, highlight=False)
    for ranked in ranking[TOP_K:]:
        if ranked.item_id == request.target:
            chosen = shop.items[ranked.item_id].title
            line = f" → chosen next: {chosen}, which came {ordinal(ranked.rank)}"
            console.print(line, style="green", markup=False, highlight=False)
    by_arm = {arm: [answer] for arm, answer in shown.answers.items() if arm in settings.arms}
    _show_times(console, by_arm, settings, "time to the first ranked item, and tokens")
    console.print()


def show_report(console: Console, report: DemoReport) -> None:
    """The arms over all requests that were shown, the quality, and what is to be said of it."""
    settings, answers = report.settings, report.answers
    num = len(report.shown)
    console.rule(f"[bold]all of it[/]: {num} request{'s' if num > 1 else ''} in {len(answers)} arms", align="left")
    _show_times(console, answers, settings, "time to the first ranked item; tokens of a prompt (mean)")
    if console.width >= TABLE_WIDTH:
        console.print(stage_table(answers, title="where the time went"))
        console.print(quality_table(report.quality))
    else:
        console.print("NDCG@10")
        for name, row in labelled(report.quality).items():
            seconds = "" if row.seconds is None else f" in {row.seconds:,.1f} s"
            console.print(f"  {name}: {row.ndcg:.3f}, n = {row.num_requests:,}{seconds}", highlight=False)
    for line in quality_lines(report.quality):
        console.print(line, markup=False, highlight=False)
    if report.note is not None:
        console.print(report.note, style="yellow", markup=False, highlight=False)
    console.print(f"\n{report.num_compilations} compilations after start-up; the demo took {report.seconds:.0f} s.")


def _show_times(console: Console, answers: Mapping[str, Sequence[Answer]], settings: Settings, title: str) -> None:
    if console.width >= TABLE_WIDTH:
        console.print(arm_table(answers, baselines(settings), title=title))
        return
    console.print("time to the first ranked item")
    for arm, of_arm in answers.items():
        console.print(f"  {arm}: {ttft_percentiles(of_arm)['p50']:,.0f} ms", markup=False, highlight=False)


def arm_text(arm: ArmSettings) -> str:
    """What an arm takes from the cache and what it makes of it."""
    corrected = "" if arm.selection == "none" else f", computes {arm.selection} of each again"
    return REUSED[arm.reuse] + corrected + (", items do not see each other" if arm.layout is Layout.PARALLEL else "")


def introduction(settings: Settings) -> Group:
    """What is about to be shown."""
    arms = Table.grid(padding=(0, 2))
    for name in arm_order(settings):
        arms.add_row("", Text(name, style="bold"), arm_text(settings.arms[name]))
    return Group(INTRODUCTION, arms, "")


def history_text(user: User) -> str:
    """How much the user bought, and what last."""
    lines = [f"bought {len(user.events)} things, last:"]
    for event in reversed(user.events[-SHOWN_EVENTS:]):
        rating = f"{event.rating:g}/5 " if event.rating is not None else ""
        lines.append(f"  {rating}{event.title}")
    return "\n".join(lines)


def quality_table(quality: Quality) -> Table:
    """The best possible, full recompute, cached blocks and chance, with the time that each took."""
    table = Table(
        title="quality: where the item stands that was chosen next", title_justify="left", box=box.SIMPLE_HEAD
    )
    table.add_column("ranked by", no_wrap=True)
    for heading in ("requests", "NDCG@10", "95%", "seconds", "each"):
        table.add_column(heading, justify="right")
    for name, row in labelled(quality).items():
        interval = "" if row.interval is None else "{:.3f}-{:.3f}".format(*row.interval)
        times = ["", ""]
        if row.seconds is not None:
            times = [f"{row.seconds:,.1f}", f"{row.seconds / row.num_requests * 1e3:,.0f} ms"]
        table.add_row(escape(name), f"{row.num_requests:,}", f"{row.ndcg:.3f}", interval, *times)
    return table


def labelled(quality: Quality) -> dict[str, Row]:
    """The rows by what a reader calls them, and the cached arm on full recompute's requests where these are fewer."""
    best, full, cached, chance = quality.rows
    rows = {"best possible": best, "full recompute": full}
    if full.num_requests < cached.num_requests:
        rows["cached, the same"] = quality.same
    return {**rows, "cached blocks": cached, "chance": chance}


def quality_lines(quality: Quality) -> list[str]:
    """How near the cached arm comes to full recompute and to the best possible, and what is to be known besides."""
    summary = quality.summaries[quality.cached]
    assert summary.differences is not None
    assert summary.fidelity is not None
    off, near = summary.differences[METRIC], summary.fidelity
    _, full, cached, _ = quality.rows
    lines = [
        f"cached blocks: arm {quality.cached}; full recompute: {quality.full}, which shows the model the same prompt",
        f"cached blocks go {quality.share:.0%} of the way from chance to the best possible",
        f"cached less full, where both were asked (n = {full.num_requests:,}): NDCG@10 {off.value:+.4f} "
        f"[{off.low:+.4f}, {off.high:+.4f}], scores at most {near.max_score_difference:.1e} apart, the same item first "
        f"in {near.top1_agreement:.0%}",
        f"the KV of {cached.num_requests:,} shoppers' histories took {quality.histories_s:,.1f} s, once",
    ]
    if full.num_requests < quality.num_wanted:
        num = f"{cached.num_requests:,} from cached blocks and {full.num_requests:,} in full"
        lines.append(f"of {quality.num_wanted:,} requests there was time for {num}")
    if quality.errors:
        lines.append(
            f"{len(quality.errors):,} answers were refused and count as ranked last; first: {quality.errors[0]}"
        )
    return lines


def ordinal(number: int) -> str:
    suffix = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"

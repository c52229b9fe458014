"""What the commands print: rankings, and arms side by side."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from rcjax.catalog import Item
from rcjax.evaluation.percentiles import percentiles
from rcjax.request import RankedItem, RecommendRequest, RecommendResult
from rcjax.serving.client import RecommenderClient

STAGES = {
    "queue": "waiting in the queue",
    "plan": "planning: prompt, page tables",
    "build": "finding cached blocks, computing missing ones",
    "probe": "probing for tokens to compute again",
    "extend": "forward pass",
    "readout": "scores to a ranking",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """A result, and how long its caller waited for it."""

    result: RecommendResult
    caller_ms: float

    @property
    def rpc_ms(self) -> float:
        """What the network and both ends of gRPC took: the caller's time less the engine's."""
        return self.caller_ms - self.result.times.ttft_ms


def asked(client: RecommenderClient, request: RecommendRequest, clock: Callable[[], float]) -> Answer:
    """Asks a server and times the call."""
    start_s = clock()
    result = client.recommend(request)
    return Answer(result, (clock() - start_s) * 1e3)


def ttft_percentiles(answers: Sequence[Answer]) -> dict[str, float]:
    return percentiles([answer.result.times.ttft_ms for answer in answers])


def ranking_table(
    ranking: Sequence[RankedItem],
    items: Mapping[str, Item],
    *,
    title: str | None = None,
    chosen: str | None = None,
    places: Mapping[str, Mapping[str, int]] | None = None,
) -> Table:
    """Items in order with what is known of them; the one that the shopper chose is marked.

    `places` are those in other rankings by item, a column each.
    """
    others = places or {}
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1))
    table.add_column("", no_wrap=True)
    for heading in ("#", *others, "score"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("item", no_wrap=True, min_width=10)
    table.add_column("title")  # the one that rich may make narrower; its cells do not wrap
    for ranked in ranking:
        is_chosen = ranked.item_id == chosen
        known = items.get(ranked.item_id)
        table.add_row(
            "→" if is_chosen else "",
            *map(str, (ranked.rank, *(of_other[ranked.item_id] for of_other in others.values()))),
            f"{ranked.score:.2f}",
            escape(ranked.item_id),
            Text(known.title if known else "", no_wrap=True, overflow="ellipsis"),
            style="bold green" if is_chosen else None,
        )
    return table


def tokens_line(result: RecommendResult) -> str:
    """A prompt's tokens by where they came from."""
    tokens = result.tokens
    semantic = f" ({tokens.semantic:,} from other histories)" if tokens.semantic else ""
    built = f"; {tokens.built:,} computed for missing blocks first" if tokens.built else ""
    probed = f"; {tokens.probed:,} probed" if tokens.probed else ""
    return (
        f"{tokens.prompt_len:,} prompt tokens: {tokens.cached:,} cached{semantic}, {tokens.selected:,} selected, "
        f"{tokens.fresh:,} fresh{built}{probed}"
    )


def stage_line(answer: Answer) -> str:
    times = answer.result.times
    stages = ", ".join(f"{name} {getattr(times, f'{name}_ms'):.1f}" for name in STAGES)
    return f"TTFT {times.ttft_ms:.1f} ms ({stages}); gRPC and network {answer.rpc_ms:.1f} ms"


def arm_table(
    answers: Mapping[str, Sequence[Answer]], baselines: Sequence[str], *, title: str, tails: bool = False
) -> Table:
    """P50 TTFT of arms side by side, their speed-ups over the baselines, and their tokens by kind (means)."""
    many = max(map(len, answers.values())) > 1
    table = Table(title=title, title_justify="left")
    table.add_column("arm")
    headings = ["P50 TTFT" if many else "TTFT", *(["P90", "P99"] if tails else [])]
    tokens = [answer.result.tokens for of_arm in answers.values() for answer in of_arm]
    rare = [kind for kind in ("probed", "semantic") if any(getattr(count, kind) for count in tokens)]
    kinds = ["cached", "selected", "fresh", *rare]
    for heading in (*headings, *(f"vs {name}" for name in baselines), *kinds):
        table.add_column(heading, justify="right")
    p50 = {arm: ttft_percentiles(of_arm)["p50"] for arm, of_arm in answers.items()}
    for arm, of_arm in answers.items():
        times = list(ttft_percentiles(of_arm).values())[: len(headings)]
        ratios = [f"{p50[baseline] / p50[arm]:.1f}x" if baseline in p50 else "" for baseline in baselines]
        table.add_row(escape(arm), *(f"{ms:,.0f} ms" for ms in times), *ratios, *_token_cells(of_arm, kinds))
    return table


def _token_cells(answers: Sequence[Answer], kinds: Sequence[str]) -> list[str]:
    tokens = [answer.result.tokens for answer in answers]
    return [f"{np.mean([getattr(count, kind) for count in tokens]):,.0f}" for kind in kinds]


def stage_table(answers: Mapping[str, Sequence[Answer]], *, title: str) -> Table:
    """Where the time went: the median of each stage, by arm."""
    table = Table(title=title, title_justify="left")
    table.add_column("stage, median ms")
    for arm in answers:
        table.add_column(escape(arm), justify="right")
    for stage, meaning in STAGES.items():
        medians = [np.median([getattr(a.result.times, f"{stage}_ms") for a in of_arm]) for of_arm in answers.values()]
        table.add_row(meaning, *(f"{ms:,.1f}" for ms in medians))
    table.add_row("gRPC, both ends", *(f"{np.median([a.rpc_ms for a in of_arm]):,.1f}" for of_arm in answers.values()))
    return table

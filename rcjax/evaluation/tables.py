"""What `rcjax eval` prints."""

from collections.abc import Collection, Mapping, Sequence

from rich import box
from rich.markup import escape
from rich.table import Table

from rcjax.evaluation.arms import References
from rcjax.evaluation.dataset import Dataset
from rcjax.evaluation.gate import METRIC, Violation
from rcjax.evaluation.ranking import METRICS
from rcjax.evaluation.summary import ArmSummary, BaselineSummary, Estimate, PositionBias, means

HEADINGS = {
    "hit_at_1": "HR@1",
    "hit_at_3": "HR@3",
    "hit_at_5": "HR@5",
    "hit_at_10": "HR@10",
    "mrr": "MRR",
    "ndcg_at_5": "NDCG@5",
    "ndcg_at_10": "NDCG@10",
    "ndcg_at_20": "NDCG@20",
}


def quality_table(
    arms: Mapping[str, ArmSummary],
    baselines: Mapping[str, BaselineSummary],
    bounds: Mapping[str, Mapping[str, float]],
    num_requests: int,
) -> Table:
    """Metrics by row: arms, rankers without a model, and bounds that nobody ranked."""
    table = _table(f"quality: means over {num_requests:,} requests", "", *HEADINGS.values())

    def add(rows: Mapping[str, Mapping[str, float]]) -> None:
        for name, values in rows.items():
            table.add_row(escape(name), *(f"{values[metric]:.3f}" for metric in METRICS))
        table.add_section()

    add({name: means(summary.metrics) for name, summary in arms.items()})
    add({name: means(summary.metrics) for name, summary in baselines.items()})
    add(bounds)
    return table


def difference_table(arms: Mapping[str, ArmSummary], reference: str = "full recompute") -> Table:
    """Each compared arm against its reference, in quality."""
    title = f"difference to {reference}: mean, and 95% paired bootstrap interval"
    table = _table(title, "arm", "against", "NDCG@10", "MRR", "HR@10")
    for name, summary in arms.items():
        if summary.differences and summary.reference:
            others = [f"{summary.differences[metric].value:+.4f}" for metric in ("mrr", "hit_at_10")]
            table.add_row(escape(name), escape(summary.reference), _signed(summary.differences[METRIC]), *others)
    return table


def fidelity_table(arms: Mapping[str, ArmSummary], reference: str = "full recompute") -> Table:
    """Each compared arm against its reference, in scores."""
    title = f"fidelity to {reference}: of the scores, whatever the shopper chose"
    table = _table(title, "arm", "against", "KL, nats", "same top 1", "Kendall τ", "max |Δscore|")
    for name, summary in arms.items():
        if (near := summary.fidelity) and summary.reference:
            table.add_row(
                escape(name),
                escape(summary.reference),
                f"{near.kl_nats:.4f}",
                f"{near.top1_agreement:.1%}",
                f"{near.kendall_tau:.3f}",
                f"{near.max_score_difference:.1e}",
            )
    return table


def cost_table(arms: Mapping[str, ArmSummary]) -> Table:
    """What each arm computes, how long its first ranked item takes, and how many requests it refused."""
    title = "cost: tokens fresh and probed, of the prompt's; selected, of the cached; TTFT in ms"
    kinds = ["fresh", "probed", "selected"]
    if any(summary.tokens.semantic > 0 for summary in arms.values()):
        kinds.append("semantic")
    table = _table(title, "arm", *kinds, "TTFT P50", "P90", "P99", "invalid")
    for name, summary in arms.items():
        shares = [f"{getattr(summary.tokens, kind):.1%}" for kind in kinds]
        times = [f"{summary.ttft_ms[p]:,.0f}" for p in ("p50", "p90", "p99")]
        table.add_row(escape(name), *shares, *times, str(summary.num_invalid))
    return table


def position_table(arms: Mapping[str, ArmSummary]) -> Table:
    """What another order of the candidates changes."""
    title = "position bias: rankings in random orders of the candidates against their own; NDCG@10 in each"
    table = _table(title, "arm", "orders", "Kendall τ", "same top 1", "own", "random")
    for name, summary in arms.items():
        if bias := summary.position_bias:
            own, *others = bias.ndcg_at_10
            spread = f"{min(others):.3f}" if len(others) == 1 else f"{min(others):.3f} to {max(others):.3f}"
            agreement = (f"{bias.kendall_tau:.3f}", f"{bias.top1_agreement:.1%}")
            table.add_row(escape(name), str(len(others)), *agreement, f"{own:.3f}", spread)
    return table


def self_agreement_line(teacher: PositionBias) -> str:
    """What to hold a student's agreement with the teacher against: the teacher's with itself.

    A student of the mean over orders may do somewhat better: the mean is nearer to each order than they are to each
    other.
    """
    return (
        f"the teacher agrees with itself in another order of the candidates: same top 1 {teacher.top1_agreement:.1%}, "
        f"Kendall τ {teacher.kendall_tau:.3f}; no student can do much better"
    )


def plan_lines(
    dataset: Dataset, references: References, added: Collection[str], seed: int, num_permutations: int
) -> list[str]:
    """What is about to be measured."""
    arms = [
        f"{arm} against {reference}" if reference else f"{arm} (full recompute{', added' if arm in added else ''})"
        for arm, reference in references.items()
    ]
    more = f"{num_permutations} random order{'s' if num_permutations > 1 else ''}"
    orders = f", also in {more} of candidates" if num_permutations else ""
    return [
        f"requests: n = {len(dataset.asked.requests):,}, seed {seed}{orders}; {dataset.origin}",
        f"arms: {'; '.join(arms)}",
    ]


def gate_lines(
    violations: Sequence[Violation], num_gated: int, tolerance: float, num_requests: int, reference: str
) -> list[str]:
    """The verdict: a line for each arm that fails, or one that says how many passed."""
    if not violations:
        within = f"within ±{tolerance:g} of {reference} in NDCG@10"
        return [f"gate passed: {num_gated} arm{'s' if num_gated != 1 else ''} {within}, n = {num_requests:,}"]
    return [
        f"gate failed: {v.arm} against {v.reference}: NDCG@10 {_signed(v.difference)} leaves ±{tolerance:g} by "
        f"{v.excess:.4f}, n = {num_requests:,}{_advice(v, tolerance)}"
        for v in violations
    ]


def _advice(violation: Violation, tolerance: float) -> str:
    is_within = abs(violation.difference.value) <= tolerance
    return "; the mean is within, and more requests make the interval narrower" if is_within else ""


def _signed(estimate: Estimate) -> str:
    return f"{estimate.value:+.4f} [{estimate.low:+.4f}, {estimate.high:+.4f}]"


def _table(title: str, first: str, *headings: str) -> Table:
    """As narrow as can be: eight metrics and an arm's name are to fit into 80 columns."""
    table = Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=0, show_edge=False
    )
    table.add_column(first, no_wrap=True)
    for heading in headings:
        is_name = heading == "against"
        table.add_column(heading, justify="left" if is_name else "right", no_wrap=is_name)
    return table

"""What the samples of a load test say, a rate at a time."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from rcjax.commands.load.open_loop import Sample
from rcjax.evaluation.percentiles import percentiles

LATE_MS = 10.0  # at the 99th percentile; a sender that is later is what is measured
NAMES = ("p50", "p90", "p99")


@dataclass(frozen=True, slots=True)
class LoadFigures:
    """Of the requests of one rate. Percentiles are of those that were answered, and empty where none was.

    `offered_per_s` is what was sent, `goodput_per_s` what was answered within the SLO, both over `wall_s`, from the
    start to the last answer. `errors` counts failures by type.
    """

    rate_per_s: float
    num_sent: int
    num_answered: int
    num_within_slo: int
    wall_s: float
    errors: dict[str, int]
    ttft_ms: dict[str, float]
    latency_ms: dict[str, float]
    late_p99_ms: float

    @property
    def goodput_per_s(self) -> float:
        return self.num_within_slo / self.wall_s

    @property
    def answered_per_s(self) -> float:
        return self.num_answered / self.wall_s

    def to_json(self) -> dict[str, Any]:
        return {
            "rate_per_s": self.rate_per_s,
            "num_sent": self.num_sent,
            "num_answered": self.num_answered,
            "num_within_slo": self.num_within_slo,
            "wall_s": self.wall_s,
            "answered_per_s": self.answered_per_s,
            "goodput_per_s": self.goodput_per_s,
            "errors": self.errors,
            "ttft_ms": self.ttft_ms,
            "latency_ms": self.latency_ms,
            "late_p99_ms": self.late_p99_ms,
        }


def figures_of(samples: Sequence[Sample], rate_per_s: float, slo_ms: float) -> LoadFigures:
    """Sums samples up; a request is within the SLO if its answer was there `slo_ms` after it was due."""
    answered = [sample for sample in samples if not sample.error]
    return LoadFigures(
        rate_per_s=rate_per_s,
        num_sent=len(samples),
        num_answered=len(answered),
        num_within_slo=sum(sample.latency_ms <= slo_ms for sample in answered),
        wall_s=max(sample.done_s for sample in samples),
        errors=dict(Counter(sample.error for sample in samples if sample.error)),
        ttft_ms=percentiles([one.ttft_ms for one in answered if one.ttft_ms is not None]) if answered else {},
        latency_ms=percentiles([one.latency_ms for one in answered]) if answered else {},
        late_p99_ms=percentiles([sample.late_ms for sample in samples])["p99"],
    )


def show(console: Console, found: Sequence[LoadFigures], *, slo_ms: float, title: str) -> None:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("sent/s", "sent", "answered", "goodput/s", "TTFT", "end-to-end"):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in found:
        counts = (str(one.num_sent), str(one.num_answered))
        times = (_ms(one.ttft_ms), _ms(one.latency_ms))
        table.add_row(f"{one.rate_per_s:.3g}", *counts, f"{one.goodput_per_s:.2f}", *times)
    console.print(table)
    console.print(
        f"Times are {'/'.join(name.upper() for name in NAMES)} in ms. TTFT is the server's own figure; end-to-end "
        "counts from when a request was due, not from when it was sent (no coordinated omission). Goodput is what was "
        f"there within {slo_ms:g} ms.",
        soft_wrap=True,
        highlight=False,
    )
    for one in found:
        failures = ", ".join(f"{count} {name}" for name, count in sorted(one.errors.items()))
        if failures:
            console.print(f"at {one.rate_per_s:.3g}/s failed: {failures}", style="red", highlight=False)
        if one.late_p99_ms > LATE_MS:
            console.print(
                f"at {one.rate_per_s:.3g}/s this load test sent {one.late_p99_ms:,.0f} ms late (P99): end-to-end times "
                "have that in them; run it on a machine of its own",
                style="yellow",
                highlight=False,
            )


def _ms(times: dict[str, float]) -> str:
    return "/".join(f"{times[name]:,.0f}" for name in NAMES) if times else "-"

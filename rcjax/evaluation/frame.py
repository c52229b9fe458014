"""An evaluation's figures as the rows of a table."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from rcjax.evaluation.summary import ArmSummary, BaselineSummary, Estimate


def summary_rows(
    arms: Mapping[str, ArmSummary],
    baselines: Mapping[str, BaselineSummary],
    bounds: Mapping[str, Mapping[str, float]],
) -> Iterator[dict[str, Any]]:
    """A row for each arm, ranker without a model, and bound.

    A metric has its mean by its name, and the ends of its 95% interval as `_low` and `_high`; the difference to the
    reference ends in `_difference`, and so do those of its interval. Shares of tokens end in `_share`.
    """
    for name, arm in arms.items():
        row: dict[str, Any] = {"name": name, "kind": "arm", "reference": arm.reference, "num_invalid": arm.num_invalid}
        row |= _estimates(arm.metrics) | _estimates(arm.differences or {}, "_difference")
        if arm.fidelity is not None:
            row |= {key: value for key, value in asdict(arm.fidelity).items() if key != "num_requests"}
        row |= {f"{key}_share": value for key, value in asdict(arm.tokens).items()}
        row |= {f"ttft_{key}_ms": value for key, value in arm.ttft_ms.items()}
        yield row
    for name, baseline in baselines.items():
        yield {"name": name, "kind": "baseline"} | _estimates(baseline.metrics)
    for name, values in bounds.items():
        yield {"name": name, "kind": "bound"} | dict(values)


def _estimates(metrics: Mapping[str, Estimate], suffix: str = "") -> dict[str, float]:
    return {
        f"{name}{suffix}{end}": value
        for name, estimate in metrics.items()
        for end, value in (("", estimate.value), ("_low", estimate.low), ("_high", estimate.high))
    }

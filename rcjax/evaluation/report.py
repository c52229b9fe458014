"""The evaluation as JSON: what ran where, every figure, and every request's ranks."""

import importlib.metadata
import json
import math
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rcjax.disk import write_whole
from rcjax.evaluation.evaluation import Evaluation
from rcjax.evaluation.gate import Violation
from rcjax.evaluation.ranking import Rank
from rcjax.evaluation.summary import ArmSummary, BaselineSummary

_PACKAGES = ("rcjax", "jax", "jaxlib", "numpy", "scipy")


def write_report(path: Path, evaluation: Evaluation, gate: dict[str, Any] | None = None) -> None:
    write_whole(path, json.dumps(_without_nan(report(evaluation, gate)), indent=1) + "\n")


def report(evaluation: Evaluation, gate: dict[str, Any] | None = None) -> dict[str, Any]:
    requests = evaluation.dataset.asked.requests
    return {
        "command": "rcjax eval",
        "model": asdict(evaluation.info),
        **({"teacher": asdict(evaluation.teacher)} if evaluation.teacher else {}),
        "requests": {
            "origin": evaluation.dataset.origin,
            "n": len(requests),
            "seed": evaluation.seed,
            "left_out": evaluation.left_out,
            "asked": [{"user_id": r.user_id, "candidates": len(r.candidates), "target": r.target} for r in requests],
        },
        "environment": environment(),
        "arms": {
            name: {"settings": evaluation.arms[name].model_dump(mode="json"), **_arm(summary)}
            for name, summary in evaluation.summaries.items()
        },
        "baselines": {name: _baseline(summary) for name, summary in evaluation.baselines.items()},
        "bounds": {name: dict(values) for name, values in evaluation.bounds.items()},
        **({"gate": gate} if gate else {}),
    }


def gate_record(violations: Sequence[Violation], tolerance: float) -> dict[str, Any]:
    return {"tolerance": tolerance, "passed": not violations, "violations": [asdict(v) for v in violations]}


def environment() -> dict[str, Any]:
    """The machine and the versions that figures depend on."""
    return {
        "cpu_count": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def _arm(summary: ArmSummary) -> dict[str, Any]:
    return {**asdict(summary), "ranks": _places(summary.ranks)}


def _baseline(summary: BaselineSummary) -> dict[str, Any]:
    return {"metrics": {k: asdict(v) for k, v in summary.metrics.items()}, "ranks": _places(summary.ranks)}


def _places(ranks: Sequence[Rank]) -> list[list[int]]:
    """The target's first and last place in each request: they differ where scores are tied."""
    return [[rank.first, rank.last] for rank in ranks]


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: what cannot be told is null."""
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value

"""Percentiles of times."""

from collections.abc import Sequence

import numpy as np


def percentiles(values_ms: Sequence[float]) -> dict[str, float]:
    """P50, P90 and P99 by name."""
    return dict(zip(("p50", "p90", "p99"), np.percentile(values_ms, (50, 90, 99)).tolist(), strict=True))

"""Confidence intervals by resampling requests."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float, Int

NUM_RESAMPLES = 10_000
LEVEL = 0.95
_CHUNK_VALUES = 10_000_000  # resampled at once: 80 MB of counts


def resampled_means(
    values: Float[np.ndarray, "R K"], groups: Sequence[str], *, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> Float[np.ndarray, "B K"]:
    """Means of K columns over B resamples of the R rows, each as large as the original (Efron's bootstrap).

    Rows of one group (requests of one user, say) are not independent, so they are resampled together: as many groups
    are drawn, with replacement, as there are. Columns share their resamples. So the difference of two columns here is
    the resampled mean of their paired differences.
    """
    names, group_of, sizes = np.unique(np.asarray(groups, str), return_inverse=True, return_counts=True)
    if len(group_of) != len(values) or not len(values):
        raise ValueError(f"{len(groups)} groups for {len(values)} values; give one for each, and at least one")
    sums = np.zeros((len(names), values.shape[1]))
    np.add.at(sums, group_of, values)
    means = [(counts @ sums) / (counts @ sizes)[:, None] for counts in _draws(len(names), num_resamples, seed)]
    return np.concatenate(means)


def interval(
    means: Float[np.ndarray, "B *columns"], level: float = LEVEL
) -> tuple[Float[np.ndarray, "*columns"], Float[np.ndarray, "*columns"]]:
    """The bounds between which `level` of the resampled means lie (the percentile interval)."""
    low, high = np.quantile(means, ((1 - level) / 2, (1 + level) / 2), axis=0)
    return low, high


def _draws(num_groups: int, num_resamples: int, seed: int) -> Iterator[Int[np.ndarray, "b G"]]:
    """How often each group is in each resample."""
    rng = np.random.default_rng(seed)
    chunk = max(_CHUNK_VALUES // num_groups, 1)
    for start in range(0, num_resamples, chunk):
        size = min(chunk, num_resamples - start)
        yield rng.multinomial(num_groups, np.full(num_groups, 1 / num_groups), size=size)

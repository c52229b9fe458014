"""The attention that keys receive, by a device's kernels, one part of what queries see at a time (see `page_parts`).

In two steps, neither of which holds more than the scores of a block of queries and a few pages: the total weight of
each query head over all parts, as in attention itself but without values; then, key by key, the shares that it gives.
"""

from dataclasses import replace
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rcjax.kernels.arrays import AnyArray
from rcjax.kernels.kv import PagedKV
from rcjax.kernels.selective_attention.layout import PageLayout
from rcjax.kernels.selective_attention.page_parts import PageParts, check_dtypes

MAX_HEAD_DIM = 256  # that of attention itself

Read = TypeVar("Read")


@runtime_checkable
class MassKernels(Protocol):
    """What a device's kernels compute of U prompts and the pages that their queries see, counted from 0."""

    def log_total(self, read: Any, q: Float[Array, "U T N H"], kv: PagedKV) -> Float[Array, "U T N"]:
        """The logarithm of the sum of exp(score), very negative where a query sees none of the keys."""

    def mass(
        self, read: Any, q: Float[Array, "U T N H"], log_total: Float[Array, "U T N"], kv: PagedKV
    ) -> Float[Array, "U S"]:
        """The sum of exp(score - log_total) over the query heads that see each slot."""


def measure_parts(
    kernels: MassKernels,
    parts: PageParts,
    q: Float[Array, "B T N H"],
    fresh: PagedKV,
    counts: Bool[AnyArray, "B T"],
    kv: PagedKV,
    pages: PageLayout,
) -> tuple[Float[Array, "B M C"], Float[Array, "B T"]]:
    """`Attention.mass`, of fresh keys as pages (their values are not read) and of a pool's pages."""
    own = _of_counting(parts.fresh, counts)
    total = kernels.log_total(own, q, fresh)
    if parts.shared is None:
        return jnp.zeros(pages.drop.shape, jnp.float32), kernels.mass(own, q, total, fresh)[:, : q.shape[1]]
    cached = _of_counting(parts.shared, counts)
    total = jnp.logaddexp(total, kernels.log_total(cached, q, kv))
    received = kernels.mass(cached, q, total, kv).reshape(pages.drop.shape)
    return received, kernels.mass(own, q, total, fresh)[:, : q.shape[1]]


def check_operands(q: Array, k_new: Array, kv: PagedKV) -> None:
    """NotImplementedError where attention itself has no kernel for these."""
    if q.shape[3] > MAX_HEAD_DIM:
        raise NotImplementedError(f"head_dim={q.shape[3]} is more than {MAX_HEAD_DIM}; use attention: reference")
    check_dtypes(kv, q=q, k_new=k_new)


def _of_counting(read: Read, counts: Bool[AnyArray, "U T"]) -> Read:
    """What the queries that count read: others become padding, and blocks of padding visit nothing."""
    of_all: Any = read
    pos = of_all.queries.pos  # [U, I, Q]
    missing = pos.shape[1] * pos.shape[2] - counts.shape[1]
    counts = jnp.pad(jnp.asarray(counts), ((0, 0), (0, missing))).reshape(pos.shape)
    count = jnp.where(counts.any(2).reshape(of_all.count.shape), of_all.count, 0)
    queries = replace(of_all.queries, pos=jnp.where(counts, pos, -1))
    masked: Read = replace(of_all, count=count, queries=queries)
    return masked

"""Clustering by locality-sensitive hashing: which tokens stand for all the others."""

import numpy as np
from jaxtyping import Float32, Int32, Int64, UInt64

NUM_HYPERPLANES = 256  # a multiple of 64; far more than 10^5 prototypes need
WORD_BITS = 64


class Hyperplanes:
    """Random-hyperplane codes: bit i is the side of plane i that a vector lies on.

    Charikar, "Similarity estimation techniques from rounding algorithms", STOC 2002: vectors at an angle a share
    each bit with probability `1 - a / pi`, so the first b bits are a bucket that gets finer as b grows.
    """

    def __init__(self, num_dims: int, seed: int):
        normals = np.random.default_rng(seed).standard_normal((num_dims, NUM_HYPERPLANES))
        self._normals = normals.astype(np.float32)

    def codes(self, vectors: Float32[np.ndarray, "T F"]) -> UInt64[np.ndarray, "T W"]:
        """256 bits a vector, the first plane's the highest bit of the first word."""
        packed = np.packbits(vectors @ self._normals > 0, axis=1)
        return packed.view(">u8").astype(np.uint64)


def cluster(
    token_ids: Int32[np.ndarray, "N"], codes: UInt64[np.ndarray, "N W"], max_clusters: int
) -> tuple[Int64[np.ndarray, "M"], Int64[np.ndarray, "C"]]:
    """Members in cluster order, and where each of at most `max_clusters` clusters begins among them.

    A cluster holds occurrences of one token whose codes agree in the first b bits, b being as large as the limit
    allows: clusters are as fine as can be while every occurrence has one. Only where the distinct tokens alone
    are too many, the rarest are left out.
    """
    order = np.lexsort((*codes.T[::-1], token_ids))
    shared = _shared_bits(token_ids[order], codes[order])
    # Cutting wherever neighbours share fewer than b bits makes as many clusters as distinct (token, first b bits).
    num_clusters = np.searchsorted(np.sort(shared), np.arange(NUM_HYPERPLANES + 1))
    num_bits = int(np.searchsorted(num_clusters, max_clusters, side="right")) - 1
    starts = np.flatnonzero(shared < max(num_bits, 0))
    if num_bits >= 0:
        return order, starts
    return _largest(order, starts, max_clusters)


def _shared_bits(token_ids: Int32[np.ndarray, "N"], codes: UInt64[np.ndarray, "N W"]) -> Int64[np.ndarray, "N"]:
    """Leading bits that each row's code shares with the row before it; -1 where the tokens differ."""
    differing = np.bitwise_xor(codes[1:], codes[:-1]).astype(">u8").view(np.uint8)
    bits = np.unpackbits(differing, axis=1)
    shared = np.where(bits.any(axis=1), bits.argmax(axis=1), NUM_HYPERPLANES)
    shared[token_ids[1:] != token_ids[:-1]] = -1
    return np.concatenate([np.full(min(len(codes), 1), -1), shared])


def _largest(
    order: Int64[np.ndarray, "N"], starts: Int64[np.ndarray, "C"], max_clusters: int
) -> tuple[Int64[np.ndarray, "M"], Int64[np.ndarray, "D"]]:
    sizes = np.diff(starts, append=len(order))
    kept = np.sort(np.argsort(-sizes, kind="stable")[:max_clusters])
    members = np.concatenate([order[starts[i] : starts[i] + sizes[i]] for i in kept])
    return members, np.concatenate([[0], np.cumsum(sizes[kept])[:-1]])


def medoids(
    vectors: Float32[np.ndarray, "N F"], members: Int64[np.ndarray, "M"], starts: Int64[np.ndarray, "C"]
) -> Int64[np.ndarray, "C"]:
    """Of each cluster the member nearest to its mean; the first in `members` where several are."""
    if not len(starts):
        return np.zeros(0, np.int64)
    ours = vectors[members]
    sizes = np.diff(starts, append=len(members))
    mean = np.add.reduceat(ours, starts, axis=0) / sizes[:, None]
    cosine = np.einsum("mf,mf->m", ours, np.repeat(mean, sizes, axis=0))
    best = np.repeat(np.maximum.reduceat(cosine, starts), sizes)
    cluster_of = np.repeat(np.arange(len(starts)), sizes)
    is_best = np.flatnonzero(cosine >= best)
    first = np.unique(cluster_of[is_best], return_index=True)[1]
    return np.asarray(members[is_best[first]])

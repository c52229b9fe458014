"""KV outside of the pool, in a tier or a snapshot: what of it may be kept, and how damage shows."""

import hashlib
import itertools
import math
from collections.abc import Iterable

import jax
import numpy as np

from rcjax.kernels.kv import KVFormat, KVPages


def digest_of_block(key: bytes, pages: KVPages) -> str:
    """The SHA-256 over a block's key and its KV, as hex."""
    digest = hashlib.sha256(key)
    for array in jax.tree.leaves(pages):
        digest.update(array.tobytes())
    return digest.hexdigest()


def take_pages(pages: KVPages, index: slice | np.ndarray) -> KVPages:
    return jax.tree.map(lambda array: array[:, index], pages)


def pages_to_bytes(pages: KVPages) -> bytes:
    """K, V and where there are scales those, one array after the other, as they lie in memory."""
    return b"".join(array.tobytes() for array in jax.tree.leaves(pages))


def digest_of_bytes(key: bytes, pieces: Iterable[bytes | memoryview]) -> str:
    """As `digest_of_block`, of pages as bytes, in pieces."""
    digest = hashlib.sha256(key)
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def pages_from_bytes(data: bytes | memoryview, kv_format: KVFormat, num_pages: int) -> KVPages | None:
    """The pages, not to be changed as they lie in `data`; None where that is of another length."""
    abstract = kv_format.abstract(num_pages)
    leaves, structure = jax.tree.flatten(abstract)
    num_bytes = [math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves]
    if len(data) != sum(num_bytes):
        return None
    starts = itertools.accumulate(num_bytes, initial=0)
    arrays = [
        np.frombuffer(data, leaf.dtype, math.prod(leaf.shape), at).reshape(leaf.shape)
        for leaf, at in zip(leaves, starts, strict=False)
    ]
    return jax.tree.unflatten(structure, arrays)

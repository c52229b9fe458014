"""KV outside of the pool, in a tier or a snapshot: what of it may be kept, and how damage shows."""

import hashlib

import jax
import numpy as np

from rcjax.kernels.kv import KVPages


def is_inline(owner: str) -> bool:
    """Whether this is the owner of content that came with a request: no item or user has such an id."""
    return "\0" in owner


def digest_of_block(key: bytes, pages: KVPages) -> str:
    """The SHA-256 over a block's key and its KV, as hex."""
    digest = hashlib.sha256(key)
    for array in jax.tree.leaves(pages):
        digest.update(array.tobytes())
    return digest.hexdigest()


def take_pages(pages: KVPages, index: slice | np.ndarray) -> KVPages:
    return jax.tree.map(lambda array: array[:, index], pages)

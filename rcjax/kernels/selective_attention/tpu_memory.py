"""What the TPU kernel holds in a core's own memory: scratch of its own, and the blocks that are copied for it."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas import tpu as pltpu

from rcjax.kernels.kv import PagedKV

LANES, SUBLANES = 128, 8  # of a register of 32-bit values: an array's last two dims fill whole ones
SLOTS = 2  # one is computed on while the other is filled
BUFFERS = 2  # of each block, for the same reason
# What libtpu 0.0.50 lets a kernel have on a v5e (its error: "limit 16.00M"), and no less on a v6e. Arrays that XLA
# keeps in VMEM as a whole need no buffers, so that a kernel may get by with less than `check_vmem` counts.
VMEM_BYTES = 16 << 20


class Scratch(NamedTuple):
    """Refs in the kernel; before, what they are to be."""

    k: Any  # [SLOTS, keys, K, H], as the pool
    v: Any  # [SLOTS, keys, K, H], as the pool
    turn: Any  # [2, keys, H] f32: cos and sin of each key of the step
    top: Any  # [K, R, 1] f32
    total: Any  # [K, R, 1] f32
    slot: Any  # [1] int32 in SMEM: where the next step finds its pages
    copies: Any  # [2, SLOTS] DMA semaphores, of k and of v


def scratch_of(kv: PagedKV, keys: int, rows: int) -> Scratch:
    """For steps of so many keys, and blocks of so many rows for each kv head."""
    _, _, kv_heads, head_dim = kv.k.shape
    return Scratch(
        k=pltpu.VMEM((SLOTS, keys, kv_heads, head_dim), kv.k.dtype),
        v=pltpu.VMEM((SLOTS, keys, kv_heads, head_dim), kv.v.dtype),
        turn=pltpu.VMEM((2, keys, head_dim), jnp.float32),
        top=pltpu.VMEM((kv_heads, rows, 1), jnp.float32),
        total=pltpu.VMEM((kv_heads, rows, 1), jnp.float32),
        slot=pltpu.SMEM((1,), jnp.int32),
        copies=pltpu.SemaphoreType.DMA((2, SLOTS)),
    )


def check_vmem(scratch: Scratch, per_block: Iterable[Any], per_unit: Iterable[Any]) -> None:
    """NotImplementedError where scratch and two buffers of what is copied are more than a kernel may have.

    Copied are parts of arrays, those of a block (the first two dims name it) and those of a prompt or tile (the first).
    """
    kept = (scratch.k, scratch.v, scratch.turn, scratch.top, scratch.total)
    num_bytes = sum(_padded_bytes(x.shape, x.dtype) for x in kept)
    num_bytes += BUFFERS * sum(_padded_bytes(x.shape[2:], x.dtype) for x in per_block)
    num_bytes += BUFFERS * sum(_padded_bytes(x.shape[1:], x.dtype) for x in per_unit)
    if num_bytes > VMEM_BYTES:
        _, keys, kv_heads, _ = scratch.k.shape
        rows = scratch.top.shape[1]
        raise NotImplementedError(
            f"{rows} rows of {kv_heads} kv heads and steps of {keys} keys take {num_bytes} bytes of VMEM, of which a "
            f"kernel may have {VMEM_BYTES}; set TpuTiling to fewer queries or keys, or take shapes of fewer pages"
        )


def _padded_bytes(shape: tuple[int, ...], dtype: Any) -> int:
    """Of an array as it lies in VMEM: lanes are always whole, of sublanes a power of two is taken."""
    itemsize = np.dtype(dtype).itemsize
    *lead, rows, columns = shape
    sublanes = min(SUBLANES * 4 // itemsize, 1 << (rows - 1).bit_length())
    return math.prod(lead) * -(-rows // sublanes) * sublanes * -(-columns // LANES) * LANES * itemsize

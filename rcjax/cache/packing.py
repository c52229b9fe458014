"""Token ids as few bytes: two a token where all are below 65,536, three where they are below 2**24, else four."""

import numpy as np
from jaxtyping import Int32

from rcjax.cache.keys import TokenIds, as_token_ids

# A dtype given by name costs as much as all the rest of unpacking.
_INT32, _UINT16 = np.dtype("<i4"), np.dtype("<u2")


def pack_ids(token_ids: Int32[np.ndarray, "S"]) -> bytes:
    """The ids as bytes; the last byte says how many a token takes."""
    highest = int(token_ids.view(np.uint32).max()) if len(token_ids) else 0  # a negative id counts as a high one
    low = token_ids.astype("<u2").tobytes()
    if highest < 2**16:
        return low + b"\2"
    if highest < 2**24:
        return low + (token_ids >> 16).astype(np.uint8).tobytes() + b"\3"
    return token_ids.astype("<i4").tobytes() + b"\4"


def unpack_ids(packed: bytes, start: int = 0) -> Int32[np.ndarray, "S"]:
    """The ids that `packed` holds from byte `start` on, in an array of its own that is read-only."""
    width = packed[-1]
    num = (len(packed) - 1 - start) // width
    if width == 2:
        ids = np.frombuffer(packed, _UINT16, num, start).astype(_INT32)
    elif width == 3:
        ids = np.frombuffer(packed, _UINT16, num, start).astype(_INT32)
        ids |= np.frombuffer(packed, np.uint8, num, start + 2 * num).astype(_INT32) << 16
    else:
        ids = np.frombuffer(packed, _INT32, num, start).copy()
    ids.setflags(write=False)
    return ids


def holds_ids(packed: bytes, start: int, token_ids: TokenIds) -> bool:
    """Whether `unpack_ids(packed, start)` are these ids; several times as fast as `np.array_equal` for int32."""
    if not (isinstance(token_ids, np.ndarray) and token_ids.dtype == _INT32):
        token_ids = as_token_ids(token_ids)
    if packed[-1] != 2:
        return unpack_ids(packed, start).tobytes() == token_ids.tobytes()
    num = len(token_ids)
    if len(packed) != start + 2 * num + 1:
        return False
    return np.frombuffer(packed, _UINT16, num, start).astype(_INT32).tobytes() == token_ids.tobytes()

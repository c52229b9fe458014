"""Which items stand where, given what each is worth on each slice: every item once, then what fits."""

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int64

_HOME_SLACK = 1.05  # how much more than its share of the catalogue a slice may be home to
_MAX_FILLERS = 200


def select(
    worth: Float32[np.ndarray, "N K"], item_bytes: Float64[np.ndarray, "N"], budget_bytes: float
) -> tuple[Bool[np.ndarray, "N K"], Float32[np.ndarray, "K"]]:
    """Where items stand, and the worth per byte at which each slice is full.

    Each item gets a home, the ones first for which it matters most, where it is worth most per byte and there is room;
    then each slice is filled with what is worth most per byte there. ValueError where the budget is too small.
    """
    num_items, num_slices = worth.shape
    density = worth / item_bytes[:, None].astype(np.float32)
    home_limit = min(budget_bytes, _HOME_SLACK * float(item_bytes.sum()) / num_slices)
    homes = _homes(density, item_bytes, home_limit, budget_bytes)
    stands = np.zeros((num_items, num_slices), bool)
    stands[np.arange(num_items), homes] = True
    room = budget_bytes - np.bincount(homes, item_bytes, minlength=num_slices)
    full_at = np.zeros(num_slices, np.float32)
    for number in range(num_slices):
        order = np.argsort(-density[:, number], kind="stable")
        last = int(np.searchsorted(np.cumsum(item_bytes[order]), budget_bytes))
        full_at[number] = density[order[min(last, num_items - 1)], number]
        order = order[~stands[order, number]]
        stands[_fitting(item_bytes[order], order, float(room[number])), number] = True
    return stands, full_at


def _fitting(sizes: Float64[np.ndarray, "M"], order: Int64[np.ndarray, "M"], room: float) -> Int64[np.ndarray, "T"]:
    """The first of `order` while they fit, then those after them that still do."""
    total = np.cumsum(sizes)
    count = int(np.searchsorted(total, room, side="right"))
    taken = [order[:count]]
    room -= float(total[count - 1]) if count else 0.0
    for _ in range(_MAX_FILLERS):
        fits = np.flatnonzero(sizes[count:] <= room)
        if not len(fits):
            break
        count += int(fits[0]) + 1
        taken.append(order[count - 1 : count])
        room -= float(sizes[count - 1])
    return np.concatenate(taken)


def _homes(
    density: Float32[np.ndarray, "N K"], item_bytes: Float64[np.ndarray, "N"], limit: float, budget_bytes: float
) -> Int64[np.ndarray, "N"]:
    """One slice an item, none with more than `limit` bytes as far as that is possible, none over the budget."""
    num_items, num_slices = density.shape
    homes = np.full(num_items, -1, np.int64)
    used = np.zeros(num_slices)
    margin = _margin(density)
    waiting = np.flatnonzero(margin > 0)  # to the others every slice is alike
    waiting = waiting[np.argsort(-margin[waiting], kind="stable")]
    is_open = np.ones(num_slices, bool)
    while len(waiting) and is_open.any():
        wanted = np.where(is_open, density[waiting], -np.inf).argmax(axis=1)
        is_refused = np.zeros(len(waiting), bool)
        for number in np.unique(wanted):
            mine = np.flatnonzero(wanted == number)
            over = used[number] + np.cumsum(item_bytes[waiting[mine]]) > limit
            homes[waiting[mine[~over]]] = number
            used[number] += item_bytes[waiting[mine[~over]]].sum()
            is_refused[mine[over]] = True
            is_open[number] = not over.any()
        waiting = waiting[is_refused]
    return _with_the_rest(homes, item_bytes, used, budget_bytes)


def _margin(density: Float[np.ndarray, "N K"]) -> Float[np.ndarray, "N"]:
    """How much more an item is worth on its best slice than on its second best."""
    if density.shape[1] == 1:
        return np.zeros(len(density), density.dtype)
    two = np.partition(density, -2, axis=1)[:, -2:]
    return np.maximum(two[:, 1] - two[:, 0], np.where(density.max(axis=1) > density.min(axis=1), 1e-12, 0.0))


def _with_the_rest(
    homes: Int64[np.ndarray, "N"], item_bytes: Float64[np.ndarray, "N"], used: Float64[np.ndarray, "K"], budget: float
) -> Int64[np.ndarray, "N"]:
    """The items without a home to the emptiest slices, the largest first."""
    rest = np.flatnonzero(homes < 0)
    for item in rest[np.argsort(-item_bytes[rest], kind="stable")]:
        emptiest = int(used.argmin())
        used[emptiest] += item_bytes[item]
        if used[emptiest] > budget:
            needed = (item_bytes.sum() / len(used) + item_bytes.max()) / (item_bytes.sum() / len(used))
            raise ValueError(
                f"a budget of {budget:,.0f} bytes a slice is too small for {len(homes):,} items of up to "
                f"{item_bytes.max():,.0f} bytes on {len(used)} slices; a factor of {needed:.2f} is enough"
            )
        homes[item] = emptiest
    return homes

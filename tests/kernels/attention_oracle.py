"""Selective attention as its docstring tells it, in float64: one query at a time, over the keys that it sees.

It knows no tiles: their pages are more pages.
"""

import math
from typing import NamedTuple

import numpy as np

from rcjax.kernels.selective_attention import PageLayout, Rope
from rcjax.kernels.selective_attention.case import Inputs


class Keys(NamedTuple):
    """One row's keys that are not dropped or padding, turned to where they stand."""

    pos: np.ndarray
    segment: np.ndarray
    key: np.ndarray  # [S, K, H]
    value: np.ndarray  # [S, K, H]


def oracle(inputs: Inputs, rope: Rope, window: int | None = None) -> np.ndarray:
    """The expected output, float64 [B, T, N, H]; never looks at a key that the rule hides."""
    inputs = untiled(inputs)
    out = np.zeros(inputs.q.shape)
    for b in range(len(out)):
        keys = keys_of(inputs, b, rope)
        for t in np.flatnonzero(inputs.tokens.pos[b] >= 0):
            seen = sees(inputs, b, t, keys, window)
            value = keys.value[seen]
            for n, weights in enumerate(weights_of(inputs.q[b, t].astype(np.float64), keys.key[seen])):
                out[b, t, n] = weights @ value[:, n * value.shape[1] // inputs.q.shape[2]]
    return out


def mass_oracle(
    inputs: Inputs, counts: np.ndarray, rope: Rope, window: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The attention that each slot, those of tiles last, and each fresh token receives from the queries in `counts`."""
    inputs = untiled(inputs)
    slots, fresh = np.zeros(inputs.pages.drop.shape), np.zeros(inputs.tokens.pos.shape)
    for b in range(len(fresh)):
        keys = keys_of(inputs, b, rope)
        mass = np.zeros(len(keys.pos))
        for t in np.flatnonzero(counts[b] & (inputs.tokens.pos[b] >= 0)):
            seen = sees(inputs, b, t, keys, window)
            mass[seen] += sum(weights_of(inputs.q[b, t].astype(np.float64), keys.key[seen]))
        held = held_slots(inputs, b)
        slots[b][held] = mass[: held.sum()]
        fresh[b, inputs.tokens.pos[b] >= 0] = mass[held.sum() :]
    return slots, fresh


def untiled(inputs: Inputs) -> Inputs:
    """The same with the pages of tiles behind those that all queries may see."""
    if inputs.tiles is None:
        return inputs
    joined = {"shift": None}
    for name in ("table", "pos", "len", "segment", "drop", *(("shift",) if inputs.pages.shift is not None else ())):
        shared, own = getattr(inputs.pages, name), getattr(inputs.tiles.pages, name)
        joined[name] = np.concatenate([shared, own.reshape(len(own), -1, *own.shape[3:])], axis=1)
    return inputs._replace(pages=PageLayout(**joined), tiles=None)


def weights_of(query: np.ndarray, keys: np.ndarray):
    """The softmax weights of each head of one query [N, H] over the keys [S, K, H] that it sees, at least itself."""
    for n, head in enumerate(query):
        scores = keys[:, n * keys.shape[1] // len(query)] @ head / math.sqrt(len(head))
        weights = np.exp(scores - scores.max())
        yield weights / weights.sum()


def sees(inputs: Inputs, b: int, t: int, keys: Keys, window: int | None) -> np.ndarray:
    """Which of the row's keys its t-th query sees."""
    pos, segment, horizon = (x[b, t] for x in (inputs.tokens.pos, inputs.tokens.segment, inputs.tokens.horizon))
    seen = (keys.pos <= pos) & ((keys.segment < horizon) | (keys.segment == segment))
    return seen if window is None else seen & (pos - keys.pos < window)


def held_slots(inputs: Inputs, b: int) -> np.ndarray:
    """Which slots of the row's pages [M, C] hold a key."""
    slot = np.arange(inputs.pages.drop.shape[2])
    return (slot < inputs.pages.len[b][:, None]) & ~inputs.pages.drop[b]


def keys_of(inputs: Inputs, b: int, rope: Rope) -> Keys:
    """Cached keys page by page, then fresh ones."""
    pages, tokens = inputs.pages, inputs.tokens
    page, slot = np.nonzero(held_slots(inputs, b))
    fresh = np.flatnonzero(tokens.pos[b] >= 0)
    number = pages.table[b, page]
    pos = np.concatenate([pages.pos[b, page] + slot, tokens.pos[b, fresh]])
    segment = np.concatenate([pages.segment[b, page], tokens.segment[b, fresh]])
    cached, cached_values = stored(inputs.k_pages, inputs.k_scale), stored(inputs.v_pages, inputs.v_scale)
    cached = cached[number, slot]
    if pages.shift is not None:
        cached = turn(cached, pages.shift[b, page], rope)
    key = np.concatenate([cached, inputs.k_new[b, fresh].astype(np.float64)])
    value = np.concatenate([cached_values[number, slot], inputs.v_new[b, fresh].astype(np.float64)])
    return Keys(pos, segment, key, value)


def stored(pages: np.ndarray, scale: np.ndarray | None) -> np.ndarray:
    """What pages stand for, in float64."""
    values = pages.astype(np.float64)
    return values if scale is None else values * scale[..., None].astype(np.float64)


def turn(x: np.ndarray, shift: np.ndarray, rope: Rope) -> np.ndarray:
    """Rotates x [S, K, H] as complex numbers; the angle is float32, as the operator promises."""
    half = x.shape[2] // 2
    angle = (shift.astype(np.float32)[:, None, None] * rope.inv_freq).astype(np.float64)
    turned = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angle)
    return np.concatenate([turned.real, turned.imag], axis=-1)

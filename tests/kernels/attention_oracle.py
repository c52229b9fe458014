"""Selective attention as its docstring tells it: one query at a time, one key at a time, in float64."""

import math

import numpy as np

from rcjax.kernels.selective_attention import Rope
from rcjax.kernels.selective_attention.cases import Inputs


def oracle(inputs: Inputs, rope: Rope, window: int | None = None) -> np.ndarray:
    """The expected output, float64 [B, T, N, H]; never looks at a key that the rule hides."""
    out = np.zeros(inputs.q.shape)
    for b in range(len(out)):
        keys = [
            (pos, segment, turn(key.astype(np.float64), pos, rope), value.astype(np.float64))
            for pos, segment, key, value in keys_of(inputs, b)
        ]
        for t in range(out.shape[1]):
            pos, segment, horizon = (
                int(x[b, t]) for x in (inputs.tokens.pos, inputs.tokens.segment, inputs.tokens.horizon)
            )
            seen = [key for key in keys if pos >= 0 and sees(pos, segment, horizon, key[0], key[1], window)]
            if seen:
                out[b, t] = attend_one(turn(inputs.q[b, t].astype(np.float64), pos, rope), seen)
    return out


def mass_oracle(
    inputs: Inputs, counts: np.ndarray, rope: Rope, window: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The attention that each slot [B, M, C] and each fresh token [B, T] receives from the queries in `counts`."""
    slots, fresh = np.zeros(inputs.pages.drop.shape), np.zeros(inputs.tokens.pos.shape)
    for b in range(len(fresh)):
        keys = [(pos, segment, turn(key.astype(np.float64), pos, rope)) for pos, segment, key, _ in keys_of(inputs, b)]
        mass = np.zeros(len(keys))
        for t in np.flatnonzero(counts[b] & (inputs.tokens.pos[b] >= 0)):
            pos, segment, horizon = (
                int(x[b, t]) for x in (inputs.tokens.pos, inputs.tokens.segment, inputs.tokens.horizon)
            )
            seen = [i for i, key in enumerate(keys) if sees(pos, segment, horizon, key[0], key[1], window)]
            query = turn(inputs.q[b, t].astype(np.float64), pos, rope)
            for n in range(len(query) if seen else 0):
                of_head = np.array([keys[i][2][n * keys[i][2].shape[0] // len(query)] for i in seen])
                scores = of_head @ query[n] / math.sqrt(query.shape[1])
                weights = np.exp(scores - scores.max())
                mass[seen] += weights / weights.sum()
        valid = [
            (m, c)
            for m in range(slots.shape[1])
            for c in range(int(inputs.pages.len[b, m]))
            if not inputs.pages.drop[b, m, c]
        ]
        for (m, c), value in zip(valid, mass, strict=False):
            slots[b, m, c] = value
        fresh[b, inputs.tokens.pos[b] >= 0] = mass[len(valid) :]
    return slots, fresh


def attend_one(query: np.ndarray, seen: list) -> np.ndarray:
    """Softmax attention of one token's heads, query [N, H]."""
    out = np.zeros_like(query)
    keys, values = np.array([key for _, _, key, _ in seen]), np.array([value for _, _, _, value in seen])
    group = len(query) // keys.shape[1]
    for n in range(len(query)):
        scores = keys[:, n // group] @ query[n] / math.sqrt(query.shape[1])
        weights = np.exp(scores - scores.max())
        out[n] = weights @ values[:, n // group] / weights.sum()
    return out


def sees(query_pos, query_segment, query_horizon, key_pos, key_segment, window) -> bool:
    if key_pos > query_pos:
        return False
    if window is not None and query_pos - key_pos >= window:
        return False
    return bool(key_segment < query_horizon or key_segment == query_segment)


def keys_of(inputs: Inputs, b: int):
    """(position, segment, key [K, H], value [K, H]) of row b's cached and fresh tokens."""
    pages, tokens = inputs.pages, inputs.tokens
    for m in range(pages.table.shape[1]):
        for c in range(int(pages.len[b, m])):
            if not pages.drop[b, m, c]:
                page = int(pages.table[b, m])
                yield int(pages.pos[b, m]) + c, pages.segment[b, m], inputs.k_pages[page, c], inputs.v_pages[page, c]
    for t in range(tokens.pos.shape[1]):
        if tokens.pos[b, t] >= 0:
            yield int(tokens.pos[b, t]), tokens.segment[b, t], inputs.k_new[b, t], inputs.v_new[b, t]


def turn(x: np.ndarray, pos: int, rope: Rope) -> np.ndarray:
    """Rotates x [K, H] as complex numbers; the angle is float32, as the operator promises."""
    half = x.shape[1] // 2
    angle = (np.float32(pos) * rope.inv_freq).astype(np.float64)
    turned = (x[:, :half] + 1j * x[:, half:]) * np.exp(1j * angle) * rope.factor
    return np.concatenate([turned.real, turned.imag], axis=1)

"""What the engine should answer, worked out without it: whole prompts, dense masks, float64 NumPy.

Who sees whom is written down by what a piece of text is (instruction, history, item, its closing glue, task), not by
segments and horizons. Nothing here knows of blocks, pages or shapes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rcjax.catalog.types import Event, Item
from rcjax.model.config import ModelConfig
from rcjax.model.spec import Model
from rcjax.prompt import Layout, Scoring

KV = tuple[np.ndarray, np.ndarray]  # each [L, T, K, H], keys unrotated


def dense(
    params: dict, config: ModelConfig, ids: np.ndarray, pos: np.ndarray, sees: np.ndarray, given: Mapping[int, KV] = {}
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Logits [T, V], K and V [L, T, K, H], weights [L, N, T, T] of query and key.

    `given[t]` is used instead of token t's own KV, each [L, K, H].
    """
    p = {name: np.asarray(value, np.float64) for name, value in params["layers"].items()}
    top = {name: np.asarray(value, np.float64) for name, value in params.items() if name != "layers"}
    group = config.num_heads // config.num_kv_heads
    x, keys, values, attention = top["embed"][ids], [], [], []
    for layer in range(config.num_layers):
        w = {name: value[layer] for name, value in p.items()}
        h = _norm(x, w["attn_norm"], config.norm_eps)
        q, k, v = (np.einsum("td,dnh->tnh", h, w[f"{n}_proj"]) + w[f"{n}_bias"] for n in "qkv")
        q, k = _norm(q, w["q_norm"], config.norm_eps), _norm(k, w["k_norm"], config.norm_eps)
        for t, (k_given, v_given) in given.items():
            k[t], v[t] = k_given[layer], v_given[layer]
        keys.append(k)
        values.append(v)
        k_rows, v_rows = np.repeat(rotate(k, pos, config), group, 1), np.repeat(v, group, 1)
        scores = np.einsum("tnh,snh->nts", rotate(q, pos, config), k_rows) / np.sqrt(config.head_dim)
        weights = np.exp(scores - scores.max(-1, keepdims=True)) * sees
        weights /= weights.sum(-1, keepdims=True)
        attention.append(weights)
        attended = np.einsum("nts,snh->tnh", weights, v_rows)
        x = x + np.einsum("tnh,nhd->td", attended, w["o_proj"])
        h = _norm(x, w["mlp_norm"], config.norm_eps)
        gate = h @ w["gate_proj"]
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w["up_proj"])) @ w["down_proj"]
    logits = _norm(x, top["final_norm"], config.norm_eps) @ top["lm_head"]
    return logits, np.stack(keys), np.stack(values), np.stack(attention)


def _norm(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight


def rotate(x: np.ndarray, pos: np.ndarray, config: ModelConfig) -> np.ndarray:
    """Multiplies the complex numbers (x_i, x_{i + H/2}) by e^(i pos theta^(-2i/H))."""
    half = config.head_dim // 2
    turn = np.exp(1j * pos[:, None] * config.rope_theta ** (-np.arange(half) / half))[:, None]
    turned = (x[..., :half] + 1j * x[..., half:]) * turn
    return np.concatenate([turned.real, turned.imag], -1)


def causal_kv(model: Model, *pieces: np.ndarray) -> KV:
    """KV of the last piece after the others, in a plain causal pass."""
    ids = np.concatenate(pieces)
    _, k, v, _ = dense(model.params, model.config, ids, np.arange(len(ids)), np.tri(len(ids), dtype=bool))
    return k[:, -len(pieces[-1]) :], v[:, -len(pieces[-1]) :]


def cached_kv(model: Model, *pieces: np.ndarray) -> KV:
    """As `causal_kv`, keys rotated to where they stand there: what pages hold."""
    k, v = causal_kv(model, *pieces)
    pos = sum(map(len, pieces[:-1])) + np.arange(len(pieces[-1]))
    return rotate(k, pos, model.config), v


@dataclass(frozen=True)
class Piece:
    """Text of one kind: "instruction", "history", "item", "before", "after" or "task"; `i` counts items."""

    kind: str
    i: int
    ids: np.ndarray
    start: int

    def sees(self, other: "Piece") -> bool:
        """In the parallel layout."""
        if self.kind == "task" or other.kind == "instruction":
            return True
        if self.kind == "after":
            return other.kind == "history" or (other.kind in ("item", "after") and other.i == self.i)
        return other.kind == self.kind and other.i == self.i


class Oracle:
    """Scores and KV for one model and the tiny template, whose texts it is told again."""

    def __init__(self, model: Model):
        self.model = model
        encode = model.tokenizer.encode
        self.instruction = encode(
            "<|im_start|>system\nRank for the shopper.<|im_end|>\n<|im_start|>user\n", allow_special=True
        )
        capitals = [chr(c) for c in range(ord("A"), ord("Z") + 1)]
        self.labels = capitals + [a + b for a in capitals for b in capitals]

    def text(self, text: str) -> np.ndarray:
        return self.model.tokenizer.encode(text, allow_special=True)

    def item_ids(self, item: Item) -> np.ndarray:
        return self.text(f" {item.title}" + (f", {item.description}" if item.description else ""))

    def history_ids(self, events: Sequence[Event]) -> np.ndarray:
        lines = [f"- {e.title}" + ("" if e.rating is None else f" {e.rating:g}") + "\n" for e in events]
        return np.concatenate([self.text("Bought:\n"), *map(self.text, lines or ["- none\n"])])

    def pieces(self, events: Sequence[Event], items: Sequence[Item], layout: Layout, scoring: Scoring) -> list[Piece]:
        before, after, task = {
            (Layout.SEQUENTIAL, Scoring.LABEL): ("\n{}:", "", "\nBest?"),
            (Layout.PARALLEL, Scoring.LABEL): ("", "\n={}", "\nBest?"),
            (Layout.SEQUENTIAL, Scoring.ANCHOR): ("\n*", "\nBuy:", ""),
            (Layout.PARALLEL, Scoring.ANCHOR): ("", "\nBuy:", ""),
        }[layout, scoring]
        pieces = [Piece("instruction", 0, self.instruction, 0)]
        begin = end = len(self.instruction)
        is_parallel = layout is Layout.PARALLEL

        def put(kind: str, i: int, ids: np.ndarray, start: int) -> None:
            nonlocal end
            pieces.append(Piece(kind, i, ids, start))
            end = max(end, start + len(ids))

        put("history", 0, self.history_ids(events), begin)
        history_end = end
        for i, item in enumerate(items):
            ids, label = self.item_ids(item), self.labels[i]
            put("before", i, self.text(before.format(label)), begin if is_parallel else end)
            put("item", i, ids, begin if is_parallel else end)
            own_end = max(history_end, begin + len(ids)) if is_parallel else end
            put("after", i, self.text(after.format(label)), own_end)
        if task:
            put("task", 0, self.text(task + "<|im_end|>\n<|im_start|>assistant\n"), end)
        return pieces

    def scores(
        self,
        events: Sequence[Event],
        items: Sequence[Item],
        layout: Layout,
        scoring: Scoring,
        trusted: Mapping[int, Sequence[int]] | None = None,
        lent: Mapping[int, KV] = {},
    ) -> dict[str, float]:
        """Score by item id. `trusted[i]` lists the offsets of item i whose KV is that of the item read alone.

        `lent[t]` is used instead of the KV of the history's token t, each [L, K, H].
        """
        given = {("history", 0, offset): kv for offset, kv in lent.items()}
        for i, offsets in (trusted or {}).items():
            k, v = causal_kv(self.model, self.instruction, self.item_ids(items[i]))
            given |= {("item", i, offset): (k[:, offset], v[:, offset]) for offset in offsets}
        logits, _, first = self._run(self.pieces(events, items, layout, scoring), layout, given)
        if scoring is Scoring.LABEL:
            chosen = logits[-1, [self.text(label)[0] for label in self.labels[: len(items)]]]
            found = chosen - np.log(np.exp(chosen).sum())
        else:
            yes, no = self.text(" yes")[0], self.text(" no")[0]
            read = [first["after", i] + len(self.text("\nBuy:")) - 1 for i in range(len(items))]
            found = logits[read, yes] - logits[read, no]
        return {item.item_id: float(score) for item, score in zip(items, found, strict=True)}

    def received(self, events: Sequence[Event], items: Sequence[Item], layout: Layout, scoring: Scoring) -> np.ndarray:
        """Attention that each token of the history receives from the whole prompt, over the first layer's heads."""
        _, weights, first = self._run(self.pieces(events, items, layout, scoring), layout, {})
        start = first["history", 0]
        return weights[0].sum((0, 1))[start : start + len(self.history_ids(events))]

    def _run(
        self, pieces: Sequence[Piece], layout: Layout, given: Mapping[tuple[str, int, int], KV]
    ) -> tuple[np.ndarray, np.ndarray, dict[tuple[str, int], int]]:
        """Logits, weights, and where each piece begins; `given` is by kind, number and offset."""
        ids = np.concatenate([piece.ids for piece in pieces])
        pos = np.concatenate([piece.start + np.arange(len(piece.ids)) for piece in pieces])
        owner = np.repeat(np.arange(len(pieces)), [len(piece.ids) for piece in pieces])
        first = {(piece.kind, piece.i): int((owner < n).sum()) for n, piece in enumerate(pieces)}
        sees = pos[None, :] <= pos[:, None]
        if layout is Layout.PARALLEL:
            sees &= np.array([[a.sees(b) for b in pieces] for a in pieces])[owner][:, owner]
        own = {first[kind, i] + offset: kv for (kind, i, offset), kv in given.items()}
        logits, _, _, weights = dense(self.model.params, self.model.config, ids, pos, sees, own)
        return logits, weights, first

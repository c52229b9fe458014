"""A tiny engine whose arms probe, and its prompts worked out densely: what each policy should see and select."""

from pathlib import Path

import numpy as np
from dense_oracle import Oracle, causal_kv, dense
from tiny_engine import event, item, tiny_settings

from rcjax.catalog.types import User
from rcjax.config import ArmSettings, Settings, ShapeSettings
from rcjax.prompt import Layout, Reuse, Scoring

POLICIES = {
    "none": "none",
    "deviation": "deviation(r=0.3)",
    "narrowed": "deviation(r=0.2, narrow=0.5)",
    "heavy_hitter": "heavy_hitter(r_item=0.2, window=5)",
    "query": "query(r=0.3)",
    "query_two_layers": "query(r=0.3, layers=2)",
    "offline": "offline(k=3)",
    "union": "boundary(first=2) + deviation(r=0.4)",
    "all_deviation": "deviation(r=1)",
    "all_narrowed": "deviation(r=1, narrow=1.0)",
    "all_heavy_hitter": "heavy_hitter(r_item=1, r_history=1)",
    "all_query": "query(r=1)",
    "all_offline": "offline(k=40)",
    "all_union": "boundary(first=2) + deviation(r=1)",
    "no_deviation": "deviation(r=0)",
    "no_narrowed": "deviation(r=0, narrow=0.5)",
    "no_heavy_hitter": "heavy_hitter(r_item=0, r_history=0, window=0)",
    "no_query": "query(r=0)",
    "no_offline": "offline(k=0)",
}
ARMS = {name: ArmSettings(selection=policy) for name, policy in POLICIES.items()} | {
    "full": ArmSettings(reuse=Reuse.NONE),
    "prefix_deviation": ArmSettings(reuse=Reuse.PREFIX, selection="deviation(r=0.3)"),
    "parallel_deviation": ArmSettings(layout=Layout.PARALLEL, selection="deviation(r=0.3)"),
    "anchor_query": ArmSettings(scoring=Scoring.ANCHOR, selection="query(r=0.3)"),
}
ITEMS = [item(i, num_words=1 + i % 5) for i in range(6)]
IDS = tuple(one.item_id for one in ITEMS)
EVENTS = tuple(event(i) for i in range(4))
SHAPES = ShapeSettings(rank=((272, 0, 2), (192, 48, 2)), build=((128, 8),), generate=((272, 96),))


def probing_settings(folder: Path) -> Settings:
    return tiny_settings(folder, arms=ARMS, default_arm="none", shapes=SHAPES)


def know(engine):
    engine.put_items(ITEMS)
    engine.put_user(User("u", EVENTS))


class Dense:
    """One sequential prompt of all items: its tokens, their KV as computed alone and in it, and its attention."""

    def __init__(self, oracle: Oracle, scoring: Scoring = Scoring.LABEL):
        self.oracle = oracle
        pieces = oracle.pieces(EVENTS, ITEMS, Layout.SEQUENTIAL, scoring)
        self.ids = np.concatenate([piece.ids for piece in pieces])
        self.owner = np.repeat(np.arange(len(pieces)), [len(piece.ids) for piece in pieces])
        self.of_item = np.array([piece.kind == "item" for piece in pieces])[self.owner]
        self.asks = np.array([piece.kind in ("before", "after", "task") for piece in pieces])[self.owner]
        self.lengths = [len(piece.ids) for piece in pieces if piece.kind == "item"]
        self.num_item_tokens = sum(self.lengths)
        self.all_items = np.ones(self.num_item_tokens, bool)
        alone = [causal_kv(oracle.model, oracle.instruction, oracle.item_ids(one)) for one in ITEMS]
        self.cached_k = np.concatenate([k for k, _ in alone], axis=1)  # [L, item tokens, K, H]
        self.cached_v = np.concatenate([v for _, v in alone], axis=1)

    def run(self, fresh_items: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """K and V of the item tokens, attention over all; item tokens outside `fresh_items` keep their cached KV."""
        places = np.flatnonzero(self.of_item)
        given = {int(places[i]): (self.cached_k[:, i], self.cached_v[:, i]) for i in np.flatnonzero(~fresh_items)}
        pos = np.arange(len(self.ids))
        sees = np.tri(len(self.ids), dtype=bool)
        model = self.oracle.model
        _, k, v, weights = dense(model.params, model.config, self.ids, pos, sees, given)
        return k[:, places], v[:, places], weights

    def deviation(self, layer: int, fresh_items: np.ndarray) -> np.ndarray:
        """||KV_new - KV_cached||_2 of each item token."""
        k, v, _ = self.run(fresh_items)
        change = [(new - old)[layer] for new, old in ((k, self.cached_k), (v, self.cached_v))]
        return np.sqrt(sum((x**2).sum((1, 2)) for x in change))

    def received(self, layers: int, queries: np.ndarray, fresh_items: np.ndarray) -> np.ndarray:
        """Attention that each item token receives from `queries`, over heads and the first layers."""
        _, _, weights = self.run(fresh_items)
        return weights[:layers][:, :, queries].sum((0, 1, 2))[self.of_item]

    def split(self, chosen: np.ndarray) -> list[list[int]]:
        """Offsets in each item of the item tokens in a mask."""
        parts = np.split(chosen, np.cumsum(self.lengths)[:-1])
        return [np.flatnonzero(part).tolist() for part in parts]


def best(scores: np.ndarray, num: int) -> np.ndarray:
    """A mask of the `num` largest."""
    chosen = np.zeros(len(scores), bool)
    chosen[np.argsort(-scores)[:num]] = True
    return chosen

"""A tiny engine whose arms borrow histories, and what each token of one should borrow, by brute force."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from dense_oracle import KV, Oracle, causal_kv
from tiny_engine import LIMITS, event, item, tiny_settings, tiny_tokenizer

from rcjax.cache.semantic import InstanceFields, TokenEmbedding
from rcjax.config import ArmSettings, SemanticSettings, Settings, ShapeSettings
from rcjax.prompt import History, Layout, Reuse

SELECTIONS = {
    "none": "none",
    "all": "full",
    "boundary": "boundary(first=2)",
    "deviation": "deviation(r=0.3)",
    "narrowed": "deviation(r=0.2, narrow=0.5)",
    "heavy_hitter": "heavy_hitter(r_item=0.2, r_history=0.4, window=0)",
    "query": "query(r=0.3)",
}
LENT = {
    f"{layout}_{name}": ArmSettings(layout=layout, selection=selection, history=History.SEMANTIC)
    for layout in Layout
    for name, selection in SELECTIONS.items()
}
EXACT = {f"{layout}_exact": ArmSettings(layout=layout) for layout in Layout}
FULL = {f"{layout}_full": ArmSettings(layout=layout, reuse=Reuse.NONE) for layout in Layout}
SHAPES = ShapeSettings(rank=((320, 0, 2), (320, 64, 2)), build=((128, 8),), generate=((320, 96),))
MIN_SIMILARITY = 0.6
ITEMS = [item(i, num_words=1 + i % 4) for i in range(4)]
IDS = tuple(one.item_id for one in ITEMS)
EVENTS = tuple(event(i) for i in range(4))
DONOR_EVENTS = tuple(event(i) for i in range(20, 26))


def lending_settings(folder: Path) -> Settings:
    semantic = SemanticSettings(min_similarity=MIN_SIMILARITY)
    arms = LENT | EXACT | FULL
    return tiny_settings(folder, arms=arms, default_arm="sequential_none", shapes=SHAPES, semantic=semantic)


def lent(oracle: Oracle, ids: np.ndarray, donor_ids: np.ndarray) -> Mapping[int, KV]:
    """KV [L, K, H] that tokens of a history get from a donor's, by offset: of its nearest token there, if near."""
    start = len(oracle.instruction)
    table = np.asarray(oracle.model.params["embed"])
    embedding = TokenEmbedding.of(table, max_position=start + LIMITS.max_history_tokens)
    specific = InstanceFields(tiny_tokenizer().decode).mask
    cosine = embedding.vectors(ids, start) @ embedding.vectors(donor_ids, start).T
    cosine[:, specific(donor_ids)] = -1
    cosine[ids[:, None] != donor_ids] = -1
    k, v = causal_kv(oracle.model, oracle.instruction, donor_ids)
    near = np.flatnonzero((cosine.max(1) >= MIN_SIMILARITY) & ~specific(ids))
    best = cosine.argmax(1)
    return {int(t): (k[:, best[t]], v[:, best[t]]) for t in near}

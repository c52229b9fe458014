"""How an explanation is shown: bars to scale, HTML, a table, shares by block, a figure."""

import sys

import numpy as np
import pytest
from tiny_engine import TinyEngine, event, item

from rcjax.catalog.types import User
from rcjax.prompt import BlockKind
from rcjax.request import RecommendRequest
from rcjax.serving.explanation import Explanation
from rcjax.serving.explanation_drawing import COLOURS, runs, seen_shares

SHOP = [item(i, num_words=1 + i % 4) for i in range(5)]
CANDIDATES = (*(one.item_id for one in SHOP), item(9))


@pytest.fixture
def stocked(engine: TinyEngine) -> TinyEngine:
    engine.put_items(SHOP)
    engine.put_user(User("u", (event(0), event(1))))
    return engine


def explained(engine: TinyEngine, arm: str, candidates: tuple = CANDIDATES) -> Explanation:
    return engine.explain(RecommendRequest(candidates, "u", arm=arm))


def test_bars_are_to_scale(stocked: TinyEngine) -> None:
    explanation = explained(stocked, "sequential_label_blocks_boundary")
    bars = list(runs(explanation))
    lengths = {state: sum(bar.length for bar in bars if bar.state == state) for state in COLOURS}
    assert lengths == {state: getattr(explanation.tokens, state) for state in COLOURS}
    assert {bar.lane for bar in bars} == {0}
    assert sorted(at for bar in bars for at in range(bar.start, bar.start + bar.length)) == list(
        range(explanation.tokens.prompt_len)
    )
    html = explanation._repr_html_()
    assert html.count("<rect") == len(bars)


def test_lanes_of_the_parallel_layout_do_not_overlap(stocked: TinyEngine) -> None:
    bars = list(runs(explained(stocked, "parallel_label_blocks")))
    assert {bar.lane for bar in bars} == set(range(3 + len(CANDIDATES)))
    taken = [(bar.lane, at) for bar in bars for at in range(bar.start, bar.start + bar.length)]
    assert len(set(taken)) == len(taken)


def test_texts_cannot_break_the_html(stocked: TinyEngine) -> None:
    html = explained(stocked, "parallel_anchor_blocks", (item(5, text="<script>&"),))._repr_html_()
    assert "<script>" not in html


def test_the_table_has_a_line_for_each_block(stocked: TinyEngine) -> None:
    explanation = explained(stocked, "sequential_label_blocks_boundary")
    lines = str(explanation).splitlines()
    by_kind = {kind.value: sum(line.split()[:1] == [kind.value] for line in lines) for kind in BlockKind}
    assert by_kind == {kind.value: sum(b.kind is kind for b in explanation.blocks) for kind in BlockKind}
    (line,) = [line for line in lines if " i3 " in line]
    assert "hit 0" in line
    (line,) = [line for line in lines if " i9 " in line]
    assert "miss" in line


def test_shares_by_block(stocked: TinyEngine) -> None:
    explanation = explained(stocked, "parallel_anchor_blocks", CANDIDATES[:2])
    shares = seen_shares(explanation)
    half = [(len(block) + 1) / (2 * len(block)) for block in explanation.blocks]
    # instruction, history, item, its glue, item, its glue
    expected = np.array(
        [
            [half[0], 0, 0, 0, 0, 0],
            [1, half[1], 0, 0, 0, 0],
            [1, 0, half[2], 0, 0, 0],
            [1, 1, 1, half[3], 0, 0],
            [1, 0, 0, 0, half[4], 0],
            [1, 1, 0, 0, 1, half[5]],
        ]
    )
    np.testing.assert_allclose(shares, expected)


def test_a_figure(stocked: TinyEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    explanation = explained(stocked, "parallel_anchor_blocks")
    above, below, *_ = explanation.plot().axes
    assert len(above.patches) == len(list(runs(explanation)))
    assert below.images[0].get_array().shape == (len(explanation.blocks),) * 2
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="rcjax"):
        explanation.plot()

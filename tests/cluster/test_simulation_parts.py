"""Costs, arrivals, workloads and bounded blocks of the simulation."""

import json

import numpy as np
import pytest

from rcjax.cluster.arrivals import recorded_gaps
from rcjax.cluster.simulation import (
    Cluster,
    CostTable,
    Link,
    PassSize,
    SimulatedArm,
    TimedPass,
    bursty_gaps,
    generated,
    poisson_gaps,
    recorded,
)
from rcjax.cluster.simulation.arm import Reuse
from rcjax.cluster.simulation.blocks import BoundedBlocks
from rcjax.cluster.simulation.sources import Sources
from rcjax.engine.cost import CostModel
from rcjax.engine.origin import Origin
from rcjax.engine.shape import Shape
from rcjax.errors import NotFoundError
from rcjax.model.config import ModelConfig
from rcjax.serving.owners import Everywhere, ItemOwners

TRUE = (0.02, 3e-4, 2e-7, 5e-8)


def seconds(size: PassSize) -> float:
    return TRUE[0] + TRUE[1] * size.fresh_tokens + TRUE[2] * size.read_tokens + TRUE[3] * size.pairs


SIZES = [PassSize(f, r, f * (r / 2 + f)) for f in (20.0, 160.0, 640.0, 2000.0) for r in (0.0, 1500.0, 4000.0)]


def test_costs_that_are_linear_are_found():
    table = CostTable.fitted("made up", 1.0, [TimedPass(size, seconds(size)) for size in SIZES])
    assert (table.begin_s, table.token_s, table.read_s, table.pair_s) == pytest.approx(TRUE, rel=1e-6)
    assert table.max_error < 1e-6
    other = PassSize(333.0, 44.0, 5555.0)
    assert table.pass_s(other) == pytest.approx(seconds(other))


def test_the_error_is_that_of_passes_that_were_not_fitted_to():
    rng = np.random.default_rng(0)
    passes = [TimedPass(size, seconds(size) * (1 + 0.1 * rng.standard_normal())) for size in SIZES]
    table = CostTable.fitted("made up", 1.0, passes)
    left_out = CostTable.fitted("made up", 1.0, passes[1:])
    assert len(table.errors) == len(SIZES)
    assert table.errors[0] == pytest.approx(left_out.pass_s(SIZES[0]) / passes[0].seconds - 1)
    assert 0.02 < table.mean_error < 0.3
    assert table.mean_error <= table.max_error


def test_costs_come_from_a_file_and_from_a_cost_model(tmp_path):
    path = tmp_path / "costs.json"
    passes = [
        {"fresh_tokens": s.fresh_tokens, "read_tokens": s.read_tokens, "pairs": s.pairs, "seconds": seconds(s)}
        for s in SIZES
    ]
    path.write_text(
        json.dumps({"format": "rcjax.costs.1", "source": "a test", "token_bytes": 9, "passes": passes}),
        encoding="utf-8",
    )
    loaded = CostTable.load(path)
    assert (loaded.source, loaded.token_bytes) == ("a test", 9)
    assert loaded.token_s == pytest.approx(TRUE[1])

    config = ModelConfig(
        num_layers=2, d_model=32, num_heads=4, num_kv_heads=2, head_dim=8, d_ff=32, vocab_size=64,
        rope_theta=1e4, norm_eps=1e-6, max_len=4096,
    )  # fmt: skip
    model = CostModel(config, page_tokens=16, page_bytes=4096)
    for fresh in (16, 64, 256, 1024):
        for pages in (0, 8, 32):
            size = PassSize(2.0 * fresh, 32.0 * pages, 2 * fresh * (16 * pages + fresh / 2))
            model.observe("rank", Shape(fresh, pages, batch=2), seconds(size))
    table = CostTable.of_model("an engine", model, 9.0, 16)
    assert (table.begin_s, table.token_s, table.read_s, table.pair_s) == pytest.approx(TRUE, rel=1e-6)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{}", "field 'format' is missing"),
        ('{"format": "other"}', "format 'other'"),
        ('{"format": "rcjax.costs.1", "source": "s", "token_bytes": 1, "passes": []}', "no pass was timed"),
        ("nothing", "no costs"),
    ],
)
def test_files_that_hold_no_costs_are_refused_by_name(tmp_path, text, says):
    path = tmp_path / "costs.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=says) as caught:
        CostTable.load(path)
    assert str(path) in str(caught.value)
    with pytest.raises(NotFoundError, match=r"absent\.json"):
        CostTable.load(tmp_path / "absent.json")


@pytest.mark.parametrize(("gaps", "least", "most"), [(poisson_gaps, 0.8, 1.25), (bursty_gaps, 20, 500)])
def test_arrivals_have_a_mean_of_one_and_bursts_where_they_are_bursty(gaps, least, most):
    drawn = gaps(200_000, np.random.default_rng(0))
    assert len(drawn) == 200_000
    assert (drawn >= 0).all()
    assert drawn.mean() == pytest.approx(1, rel=0.06)
    # index of dispersion of counts: 1 for Poisson
    counts = np.bincount((np.cumsum(drawn) / 100).astype(int))[:-1]
    assert least <= counts.var() / counts.mean() <= most


def test_recorded_times_keep_their_pattern():
    np.testing.assert_allclose(recorded_gaps(np.array([5.0, 6.0, 6.0, 9.0])), [0, 0.75, 0, 2.25])
    for wrong in ([1.0], [2.0, 1.0], [3.0, 3.0]):
        with pytest.raises(ValueError, match="must ascend"):
            recorded_gaps(np.array(wrong))


def test_generated_requests_are_distinct_items_mostly_of_one_neighbourhood():
    workload = generated(5000, 800, poisson_gaps, locality=0.9)
    order = np.argsort(np.random.default_rng(2605).permutation(5000))  # place of an item among neighbourhoods
    shares = []
    for first, last in zip(workload.starts[:-1], workload.starts[1:], strict=True):
        items = workload.items[first:last]
        assert len(set(items.tolist())) == len(items) <= 20
        shares.append(np.bincount(order[items] // 50).max() / len(items))
    assert workload.num_candidates.mean() > 19.5
    # Popular items of the neighbourhood come more than once and are then replaced, by others from anywhere among them.
    assert 0.75 < np.mean(shares) < 0.95
    assert workload.item_tokens.mean() == pytest.approx(87, rel=0.05)
    assert workload.history_tokens.mean() == pytest.approx(500, rel=0.05)
    same, other = generated(5000, 800, poisson_gaps), generated(5000, 800, poisson_gaps, seed=1)
    np.testing.assert_array_equal(workload.items, same.items)
    np.testing.assert_array_equal(workload.item_tokens, other.item_tokens)
    assert not np.array_equal(workload.items[:1000], other.items[:1000])


def test_keys_are_an_item_s_own():
    workload = generated(300, 200, poisson_gaps)
    key_of = {}
    for at, item in enumerate(workload.items.tolist()):
        key = workload.keys[32 * at : 32 * at + 32]
        assert key_of.setdefault(item, key) == key
    assert len({key[:8] for key in key_of.values()}) == len(key_of)


def test_a_log_is_read_with_its_times(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"candidates": ["a", "b", "a"], "at_s": 1}\n{"candidates": ["c", "b"], "at_s": 4}\n', "utf-8")
    workload = recorded(path, gaps=poisson_gaps)
    assert [workload.id_of(item) for item in workload.items] == ["a", "b", "c", "b"]
    assert workload.starts.tolist() == [0, 2, 4]
    assert workload.gaps.tolist() == [0, 1]
    path.write_text('{"candidates": ["a"], "at_s": 1}\n{"candidates": ["c"]}\n', "utf-8")
    with pytest.raises(ValueError, match="2 requests, 1 with at_s"):
        recorded(path, gaps=poisson_gaps)
    for line in ('{"candidates": []}', "[]", "{}", "x"):
        path.write_text(line + "\n", "utf-8")
        with pytest.raises(ValueError, match=r"log\.jsonl:1: no request"):
            recorded(path, gaps=poisson_gaps)
    with pytest.raises(NotFoundError, match=r"absent\.jsonl"):
        recorded(tmp_path / "absent.jsonl", gaps=poisson_gaps)


def test_bounded_blocks_evict_what_is_cheap_before_what_is_dear():
    evicted = []
    blocks = BoundedBlocks(300, lambda item, tokens: evicted.append((item, tokens)))
    assert [blocks.put(item, 100, cost) for item, cost in ((1, 9.0), (2, 1.0), (3, 9.0))] == [True] * 3
    assert blocks.put(4, 150, 9.0)
    assert evicted == [(2, 100), (1, 100)]
    assert (blocks.num_tokens, len(blocks)) == (250, 2)
    assert not blocks.put(5, 301, 9.0)
    assert blocks.use(3)
    assert not blocks.use(2)


def test_a_block_comes_from_where_it_is_cheapest():
    costs = CostTable("by hand", token_bytes=1.0, begin_s=1.0, token_s=0.01, read_s=0.0, pair_s=0.0)
    links = {Origin.SLICE: Link(200.0, 0.0), Origin.HOST: Link(1000.0, 0.5), Origin.DISK: Link(50.0, 0.0)}
    sources = Sources(costs, links, {Origin.HOST: 100, Origin.DISK: 1000}, has_peers=True)
    sources.keep(1, 60)
    sources.keep(2, 60)  # 1 goes on to disk, which is slower than another slice
    brought = sources.bring([1, 2, 3], [60, 60, 20], now_s=10.0)
    assert brought.origins == [Origin.SLICE, Origin.HOST, Origin.SLICE]
    assert brought.ready_s == pytest.approx(10.56)  # the host's half a second and 60 ms, the slice's 80 tokens 0.4 s
    assert sources.bring([3], [20], now_s=10.1).ready_s == pytest.approx(10.5)  # behind the first copies
    alone = Sources(costs, links, {}, has_peers=False)
    assert alone.bring([1, 2], [10, 20], 0.0).built_tokens == 30
    with pytest.raises(ValueError, match="host tier has room and no link"):
        Sources(costs, {}, {Origin.HOST: 1}, has_peers=False)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Link(0.0), "must be above 0"),
        (lambda: SimulatedArm(Reuse.BLOCKS, 1.5), r"recomputed=1\.5"),
        (lambda: generated(5, 3, poisson_gaps), "num_candidates=20"),
        (lambda: generated(50, 0, poisson_gaps), "num_requests=0"),
        (lambda: generated(50, 3, poisson_gaps, locality=1.1), "locality=1.1"),
        (
            lambda: Cluster(
                ItemOwners(Everywhere(1)), CostTable("x", 1.0, 1.0, 1.0, 1.0, 1.0), SimulatedArm(Reuse.BLOCKS), 0.0, 0
            ),
            "max_batch=0",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()

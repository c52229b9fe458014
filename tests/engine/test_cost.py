"""The cost model: what was timed, and guesses from floating-point operations for what was not."""

import pytest
from tiny_engine import tiny_model

from rcjax.engine.cost import CostModel, layer_flops
from rcjax.engine.origin import Origin
from rcjax.engine.shape import Shape
from rcjax.model.selection import Measure, Quantity

PAGE_TOKENS = 8
SMALL, LARGE = Shape(64, 8), Shape(128, 8, 2)
TILED = Shape(20, 8, tiles=20, tile_pages=6, at_home=True)


@pytest.fixture(scope="module")
def config():
    return tiny_model().config


@pytest.fixture
def cost(config):
    return CostModel(config, PAGE_TOKENS, page_bytes=1000)


def test_flops_of_a_layer_by_hand(config):
    """32 wide, 4 heads and 2 of kv of 8: q and o have 32 x 32 weights, k and v 32 x 16; the MLP three of 32 x 48."""
    weights = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48
    assert layer_flops(config, 0.0) == 2 * weights
    assert layer_flops(config, 10.0) - layer_flops(config, 0.0) == 2 * 2 * 32 * 10  # q k^T and the weighted sum of v


def test_a_pass_that_was_held_up_does_not_end_the_use_of_its_shape(cost):
    """Whoever takes the fastest shape times no other: the one that was held up has to look faster in time."""
    took_s = {SMALL: 0.006, LARGE: 0.035}
    for shape, seconds in took_s.items():
        cost.observe("rank", shape, seconds)
    cost.observe("rank", SMALL, 0.3)
    chosen = []
    for _ in range(1000):
        chosen.append(min(took_s, key=lambda shape: cost.pass_s("rank", shape)))
        cost.observe("rank", chosen[-1], took_s[chosen[-1]])
    assert chosen[0] == LARGE
    assert set(chosen[-100:]) == {SMALL}


def test_a_shape_that_is_not_run_never_looks_faster_than_it_was(cost):
    cost.observe("rank", SMALL, 0.5)
    cost.observe("rank", SMALL, 1.0)
    cost.observe("build", SMALL, 1.0)
    for _ in range(10_000):
        cost.observe("rank", LARGE, 0.4)
    assert cost.pass_s("rank", SMALL) == pytest.approx(0.5)
    assert cost.pass_s("build", SMALL) == 1.0


def test_a_program_that_was_timed_takes_what_it_took(cost):
    cost.observe("rank", SMALL, 0.25)
    assert cost.pass_s("rank", SMALL) == 0.25
    for _ in range(60):
        cost.observe("rank", SMALL, 0.5)
    assert cost.pass_s("rank", SMALL) == pytest.approx(0.5, rel=1e-4)


def test_one_odd_pass_does_not_make_the_estimate(cost):
    for _ in range(10):
        cost.observe("rank", SMALL, 0.1)
    cost.observe("rank", SMALL, 1.0)
    assert 0.1 < cost.pass_s("rank", SMALL) < 0.3


def test_others_take_their_flops_at_the_rate_of_what_was_timed(cost, config):
    def flops(shape):
        context = (shape.num_pages + shape.tile_pages) * 8 + shape.fresh_tokens / 2  # of a token in a tile
        return 3 * shape.batch * shape.fresh_tokens * layer_flops(config, context)

    cost.observe("rank", SMALL, 0.25)
    assert cost.pass_s("rank", LARGE) == pytest.approx(0.25 * flops(LARGE) / flops(SMALL))
    assert cost.pass_s("rank", TILED) == pytest.approx(0.25 * flops(TILED) / flops(SMALL))
    assert cost.pass_s("build", SMALL) == pytest.approx(0.25)


def test_before_anything_was_timed_larger_shapes_take_longer(cost):
    shapes = [Shape(32, 0), Shape(32, 8), Shape(64, 8), Shape(64, 8, 2)]
    seconds = [cost.pass_s("rank", shape) for shape in shapes]
    assert 0 < seconds[0] < seconds[1] < seconds[2] < seconds[3]
    assert seconds[3] == pytest.approx(2 * seconds[2])


@pytest.mark.parametrize(
    ("measure", "num_layers"),
    [
        (None, 3),
        (Measure(Quantity.MEAN_DEVIATION), 3),
        (Measure(Quantity.DEVIATION, 1), 2),
        (Measure(Quantity.FIRST_LAYER), 1),
        (Measure(Quantity.QUERY_ATTENTION, 0), 3),
        (Measure(Quantity.QUERY_ATTENTION, 2), 2),
    ],
)
def test_a_probe_takes_the_layers_that_it_runs(cost, measure, num_layers):
    assert cost.pass_s("probe", SMALL, measure) == pytest.approx(cost.pass_s("rank", SMALL) * num_layers / 3)


def test_probes_of_one_shape_are_told_apart(cost):
    cost.observe("probe", SMALL, 0.5, Measure(Quantity.DEVIATION, 1))
    cost.observe("probe", SMALL, 0.1, Measure(Quantity.FIRST_LAYER))
    assert cost.pass_s("probe", SMALL, Measure(Quantity.DEVIATION, 1)) == 0.5


def test_blocks_share_the_longest_build_pass(cost):
    cost.observe("build", Shape(48, 8), 0.3)
    cost.observe("build", Shape(128, 8), 0.64)
    cost.observe("build", Shape(48, 8), 0.3)
    assert cost.build_s(1) == pytest.approx(0.005)
    assert cost.build_s(40) == pytest.approx(0.2)


def test_blocks_that_nobody_shares_a_pass_with_take_whole_passes(cost):
    cost.observe("build", Shape(48, 8), 0.3)
    cost.observe("build", Shape(128, 8), 0.64)
    assert cost.build_alone_s(1) == cost.build_alone_s(48) == 0.3
    assert cost.build_alone_s(49) == cost.build_alone_s(128) == 0.64
    assert cost.build_alone_s(2 * 128 + 48) == pytest.approx(2 * 0.64 + 0.3)
    assert cost.build_alone_s(0) == 0


def test_the_faster_of_two_build_passes_that_hold_the_blocks(cost):
    cost.observe("build", Shape(48, 8), 0.9)
    cost.observe("build", Shape(128, 8), 0.64)
    assert cost.build_alone_s(1) == 0.64


def test_a_block_costs_something_before_the_first_pass(cost):
    assert cost.build_alone_s(10) == cost.build_s(10)
    assert 0 < cost.build_s(10) < cost.build_s(100)


def test_transfers_take_what_transfers_took(cost):
    assert cost.transfer_s(4) > 0
    cost.observe_transfer(2, 0.5)
    assert cost.transfer_s(4) == pytest.approx(1.0)
    for _ in range(60):
        cost.observe_transfer(10, 5.0)
    assert cost.transfer_s(1) == pytest.approx(0.5, rel=1e-4)
    cost.observe_transfer(0, 0.5)
    assert cost.transfer_s(1) == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize("origin", [Origin.SLICE, Origin.HOST, Origin.DISK])
def test_fetches_have_a_beginning_and_a_length(cost, origin):
    assert 0 < cost.origin_s(origin, 1) < cost.origin_s(origin, 100)
    for _ in range(20):
        for num_pages in (1, 7, 30):
            cost.observe_fetch(origin, num_pages, 0.5 + 0.01 * num_pages)
    assert cost.origin_s(origin, 100) == pytest.approx(1.5, rel=1e-3)
    cost.observe_fetch(origin, 0, 99.0)
    assert cost.origin_s(origin, 0) == pytest.approx(0.5, rel=1e-3)


def test_fetches_of_one_size_are_so_much_a_page(cost):
    for _ in range(300):
        cost.observe_fetch(Origin.SLICE, 10, 0.5)
    assert cost.fetch_s(10 * PAGE_TOKENS) == pytest.approx(0.5)
    assert cost.fetch_s(20 * PAGE_TOKENS) == pytest.approx(1.0)


def test_an_estimate_follows_and_is_never_negative(cost):
    for num_pages, seconds in ((1, 5.0), (30, 0.1), (1, 5.0), (30, 0.1)):
        cost.observe_fetch(Origin.DISK, num_pages, seconds)
    assert cost.disk_s(1000 * PAGE_TOKENS) > 0
    for num_pages, seconds in ((10, 0.1), (30, 0.9)) * 40:
        cost.observe_fetch(Origin.DISK, num_pages, seconds)
    assert 0 <= cost.disk_s(0) < cost.disk_s(PAGE_TOKENS)


def test_what_was_too_dear_is_tried_again_in_time(cost):
    cost.observe_fetch(Origin.HOST, 1, 100.0)
    before = cost.host_s(PAGE_TOKENS)
    for _ in range(300):
        cost.pass_over(Origin.HOST)
    assert cost.host_s(PAGE_TOKENS) < 0.01 * before


def test_what_is_built_comes_from_nowhere(cost):
    with pytest.raises(ValueError, match="ask build_s"):
        cost.origin_s(Origin.BUILT, 1)

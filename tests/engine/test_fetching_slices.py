"""Blocks that miss come from another slice: the same scores, to the bit, and nobody waits for anybody in a circle."""

import gc
import threading

import jax
import numpy as np
import pytest
from connected_slices import WATCHDOG_S, Slices, scores
from waiting import wait_until

from rcjax.cache import IntegrityError
from rcjax.cache.tiers import KVTiers
from rcjax.engine import fetching
from rcjax.prompt import BlockKind, Owner
from rcjax.request import RecommendRequest

ITEMS = (1, 2, 3, 4)


@pytest.fixture
def slices():
    made = Slices()
    yield made
    made.close()


def num_tokens(slices, numbers, events=(0,)):
    plan = slices.plan(numbers, events)
    return sum(len(planned.block) for planned in plan.wanted if planned.key != slices.parts.keys.instruction)


class TestScores:
    def test_fetched_blocks_score_as_built_ones_to_the_bit(self, slices):
        built = slices.rank(0, ITEMS)
        fetched = slices.rank(1, ITEMS)
        again = slices.rank(1, ITEMS)
        assert scores(fetched) == scores(built) == scores(again)
        assert (built.tokens.built, built.tokens.fetched) == (num_tokens(slices, ITEMS), 0)
        assert (fetched.tokens.built, fetched.tokens.fetched) == (0, num_tokens(slices, ITEMS))
        assert (again.tokens.built, again.tokens.fetched) == (0, 0)
        assert fetched.tokens.prompt_len == built.tokens.prompt_len
        slices.assert_idle()

    def test_stats_say_what_moved(self, slices):
        slices.rank(0, ITEMS)
        slices.rank(1, ITEMS)
        slices.rank(1, ITEMS)
        lender, borrower = (worker.stats for worker in slices.workers)
        num_blocks = len(ITEMS) + 1
        assert (borrower.num_fetched, borrower.num_misses, borrower.num_replica_hits) == (num_blocks,) * 3
        assert lender.lent_bytes == borrower.fetched_bytes > 0
        assert (lender.fetched_bytes, borrower.lent_bytes, lender.num_fetched) == (0, 0, 0)

    def test_a_cheap_build_is_not_fetched(self):
        made = Slices(are_builds_dear=False)
        for worker in made.workers:
            worker.cache.executor.cost.build_alone_s = lambda num_tokens: 1e-9
        made.rank(0, ITEMS)
        assert made.rank(1, ITEMS).tokens.fetched == 0
        made.close()

    def test_one_short_block_is_fetched_sooner_than_a_long_pass_is_run(self):
        """Though its share of a pass that others fill too would be the cheaper."""
        made = Slices(are_builds_dear=False)
        made.rank(0, ITEMS)
        made.rank(1, ITEMS[:-1])
        cost = made.workers[1].cache.executor.cost
        cost.origin_s = lambda origin, num_pages: 0.5 * cost.build_alone_s(1)
        cost.build_s = lambda num_tokens: 0.1 * cost.build_alone_s(1)
        assert made.rank(1, ITEMS).tokens.fetched == len(made.block(ITEMS[-1]).block)
        made.close()

    def test_what_waits_for_a_slice_waits_for_its_passes_and_not_for_its_copies(self):
        """A copy that takes twice as long as a pass is made where three requests wait, and not where one does."""
        made = Slices(are_builds_dear=False)
        cost = made.workers[1].cache.executor.cost
        made.rank(0, range(20, 28))
        cost.origin_s = lambda origin, num_pages: 2 * cost.build_alone_s(1)
        cost.build_alone_s = lambda num_tokens: 1.0
        assert made.rank(1, (20, 21)).tokens.fetched == 0
        release = hold(made.workers[1])
        plans = [made.plan(pair) for pair in ((22, 23), (24, 25), (26, 27))]
        futures = [made.submit(1, plan) for plan in plans]
        release.set()
        assert sum(future.result(WATCHDOG_S).tokens.fetched for future in futures) > 0
        made.close()

    @pytest.mark.parametrize("kv_dtype", ["int8", "fp8"])
    def test_quantised_pages_with_their_scales(self, kv_dtype):
        made = Slices(kv_dtype=kv_dtype)
        built, fetched = made.rank(0, ITEMS), made.rank(1, ITEMS)
        assert scores(fetched) == scores(built)
        assert (fetched.tokens.built, fetched.tokens.fetched) == (0, num_tokens(made, ITEMS))
        made.close()

    def test_heads_split_over_devices(self):
        made = Slices(tensor=2)
        built, fetched = made.rank(0, ITEMS), made.rank(1, ITEMS)
        assert scores(fetched) == scores(built)
        assert fetched.tokens.built == 0
        made.close()


class TestCopies:
    @pytest.mark.parametrize("is_late", [False, True], ids=["landed", "given up"])
    def test_none_is_left_on_the_devices(self, slices, monkeypatch, is_late):
        """Without the garbage collector, which might come by only when the memory is full."""
        slices.rank(0, ITEMS)
        slices.rank(1, (5, 6))
        gc.collect()
        gc.disable()
        try:
            num_arrays = len(jax.live_arrays())
            if is_late:
                monkeypatch.setattr(fetching, "MIN_PATIENCE_S", 0.0)
                monkeypatch.setattr(fetching, "PATIENCE", 0.0)
                monkeypatch.setattr(fetching, "PATIENCE_PASSES", 0)
            fetched = slices.rank(1, ITEMS).tokens.fetched
            slices.assert_idle()
            assert is_late or fetched > 0
            wait_until(lambda: len(jax.live_arrays()) <= num_arrays)
        finally:
            gc.enable()


class TestLenders:
    def test_what_the_lender_no_longer_has_is_computed(self, slices):
        built = slices.rank(0, ITEMS)
        slices.evict_all(0)
        for planned in slices.plan(ITEMS).wanted:
            slices.residency.commit(0, planned.key)  # a message that came late
        computed = slices.rank(1, ITEMS)
        assert scores(computed) == scores(built)
        assert (computed.tokens.fetched, computed.tokens.built) == (0, num_tokens(slices, ITEMS))

    def test_a_part_of_what_was_asked_for(self, slices):
        slices.rank(0, (1, 2))
        slices.evict_all(0)
        slices.rank(0, (2,), (5,))
        slices.residency.commit(0, slices.plan((1,)).wanted[-1].key)
        both = slices.rank(1, (1, 2))
        assert both.tokens.fetched == len(slices.block(2).block)
        assert both.tokens.fetched + both.tokens.built == num_tokens(slices, (1, 2))

    def test_a_dead_lender_is_a_miss(self, slices):
        built = slices.rank(0, ITEMS)
        slices.workers[0].call(die)
        slices.workers[0].lost.exception(WATCHDOG_S)
        computed = slices.rank(1, ITEMS)
        assert scores(computed) == scores(built)
        assert (computed.tokens.fetched, computed.tokens.built) == (0, num_tokens(slices, ITEMS))

    def test_one_that_dies_while_it_is_asked(self, slices):
        built = slices.rank(0, ITEMS)
        release = hold(slices.workers[0])
        future = slices.submit(1, slices.plan(ITEMS))
        let_ask(slices, 1)
        slices.workers[0].call(die)
        release.set()
        slices.workers[0].lost.exception(WATCHDOG_S)
        assert scores(future.result(WATCHDOG_S)) == scores(built)

    def test_one_that_does_not_answer_is_given_up(self, slices, monkeypatch):
        monkeypatch.setattr(fetching, "MIN_PATIENCE_S", 0.0)
        monkeypatch.setattr(fetching, "PATIENCE", 0.0)
        monkeypatch.setattr(fetching, "PATIENCE_PASSES", 0)
        built = slices.rank(0, ITEMS)
        release = hold(slices.workers[0])
        computed = slices.rank(1, ITEMS)
        assert scores(computed) == scores(built)
        assert computed.tokens.built == num_tokens(slices, ITEMS)
        release.set()
        slices.assert_idle()

    def test_slices_that_fetch_from_each_other(self, slices):
        """Both ask before either can answer, over and over."""
        for turn in range(5):
            first, second = (10 * turn + 1, 10 * turn + 2), (10 * turn + 3, 10 * turn + 4)
            slices.rank(0, first, (turn,))
            slices.rank(1, second, (turn,))
            releases = [hold(worker) for worker in slices.workers]
            futures = [slices.submit(index, slices.plan(first + second, (turn,))) for index in (0, 1)]
            for release in releases:
                release.set()
            one, other = (future.result(WATCHDOG_S) for future in futures)
            assert scores(one) == pytest.approx(scores(other), abs=1e-6)
            assert one.tokens.built == other.tokens.built == 0
        slices.assert_idle()


class TestWrites:
    def test_what_is_deleted_while_it_is_fetched_is_never_found(self, slices):
        slices.put_items(ITEMS, on=[0])
        plan = slices.plan_of(RecommendRequest(("i1", "i2"), history=()))
        keys = [planned.key for planned in plan.wanted[-2:]]
        release = hold(slices.workers[0])
        future = slices.submit(1, plan)
        let_ask(slices, 1)
        dropped = slices.workers[1].drop([(BlockKind.ITEM, Owner("", "i1"))], plan.version + 1)
        assert dropped.result(WATCHDOG_S) == 1, "it was being fetched"
        release.set()
        assert future.result(WATCHDOG_S).tokens.fetched > 0
        held = slices.residency.holders(keys)
        assert held.tolist() == [[1, 0], [1, 1]]
        assert slices.on(1, lambda worker: worker.cache.directory.current("item", Owner("", "i1"))) is None
        slices.assert_idle()

    def test_an_older_plan_does_not_bring_back_what_is_deleted(self, slices):
        slices.put_items(ITEMS, on=[0])
        plan = slices.plan_of(RecommendRequest(("i1", "i2"), history=()))
        slices.workers[1].drop([(BlockKind.ITEM, Owner("", "i1"))], plan.version + 1).result(WATCHDOG_S)
        assert slices.submit(1, plan).result(WATCHDOG_S).tokens.fetched > 0
        assert slices.on(1, lambda worker: worker.cache.directory.current("item", Owner("", "i1"))) is None

    def test_a_write_copies_what_another_slice_built(self, slices):
        slices.put_items(ITEMS, on=[0])
        blocks = [slices.block(number) for number in ITEMS]
        assert slices.workers[1].fill(blocks, 9).result(WATCHDOG_S) == 0, "none was computed"
        assert slices.workers[1].stats.num_fetched == len(ITEMS)
        assert slices.on(1, lambda worker: len(worker.cache.directory.replicas)) == 0, "it is to stay there"

    def test_a_write_makes_a_replica_stay(self, slices):
        slices.put_items(ITEMS, on=[0])
        slices.submit(1, slices.plan_of(RecommendRequest(("i1", "i2"), history=()))).result(WATCHDOG_S)
        assert slices.on(1, lambda worker: len(worker.cache.directory.replicas)) == 2, "the history was held by nobody"
        slices.workers[1].fill([slices.block(1)], 9).result(WATCHDOG_S)
        assert slices.on(1, lambda worker: len(worker.cache.directory.replicas)) == 1


class TestReplicas:
    def test_those_that_nobody_reads_are_few(self):
        made = Slices(replica_share=0.05)
        limit = int(0.05 * made.workers[1].cache.directory.pool.capacity_pages)
        for first in range(0, 60, 4):
            numbers = range(first, first + 4)
            made.rank(0, numbers)
            made.rank(1, numbers)
            assert made.on(1, lambda worker: worker.cache.directory.replicas.num_idle_pages) <= limit
        assert made.workers[1].stats.num_fetched == 60 + 1
        made.assert_idle()
        made.close()

    def test_they_go_before_what_was_computed_here(self, slices):
        slices.rank(1, (7,), (7,))
        slices.rank(0, ITEMS)
        slices.rank(1, ITEMS)

        def evict(worker):
            directory = worker.cache.directory
            num_pages = directory.pool.num_free + directory.replicas.num_idle_pages
            directory.release(directory.reserve_scratch(num_pages))

        slices.on(1, evict)
        assert slices.on(1, lambda worker: len(worker.cache.directory.replicas)) == 0
        assert slices.rank(1, (7,), (7,)).tokens.built == 0

    def test_what_gave_no_numbers_is_computed_and_not_fetched_again(self, slices):
        slices.rank(0, ITEMS)
        slices.rank(1, ITEMS)

        def discard(worker):
            for planned in slices.plan(ITEMS).wanted:
                cached = worker.cache.directory.find(planned.key, planned.block.token_ids)
                if cached.kind != BlockKind.INSTRUCTION:
                    worker.cache.discard(cached)

        slices.on(1, discard)
        again = slices.rank(1, ITEMS)
        assert (again.tokens.built, again.tokens.fetched) == (num_tokens(slices, ITEMS), 0)

    def test_the_order_of_correction_comes_along(self, slices):
        slices.put_items(ITEMS, on=[0])
        block = slices.block(1)

        def choose(worker):
            cached = worker.cache.directory.current("item", Owner("", "i1"))
            worker.cache.directory.set_order(cached, np.arange(cached.num_tokens)[::-1])

        slices.on(0, choose)
        slices.workers[1].fill([block], 9).result(WATCHDOG_S)
        order = slices.on(1, lambda worker: worker.cache.directory.current("item", Owner("", "i1")).order)
        assert order.tolist() == list(range(len(block.block)))[::-1]


class TestTiers:
    def test_another_slice_finds_it_there(self):
        made = Slices(2, tiers=KVTiers(2**24))
        made.put_items(ITEMS, on=[0])
        plan = made.plan_of(RecommendRequest(("i1", "i2", "i3", "i4"), history=()))
        first = made.submit(0, plan).result(WATCHDOG_S)
        made.evict_all(0)
        second = made.submit(1, plan).result(WATCHDOG_S)
        assert scores(second) == scores(first)
        assert second.tokens.host == sum(len(planned.block) for planned in plan.wanted[1:])
        made.evict_all(1)
        assert made.workers[1].stats.spilled_bytes == 0, "it is there already"
        made.close()

    def test_replicas_are_not_kept(self):
        made = Slices(2, tiers=KVTiers(2**24))
        made.put_items(ITEMS, on=[0])
        made.submit(1, made.plan_of(RecommendRequest(("i1", "i2"), history=()))).result(WATCHDOG_S)
        made.evict_all(1)
        assert [made.tiers.find(made.block(number).key) for number in (1, 2)] == [None, None]
        made.close()


def die(worker):
    raise IntegrityError("the books do not add up")


def let_ask(slices, index):
    """Returns once a slice has begun to fetch for what was submitted: the second message comes after the next turn."""
    for _ in range(2):
        slices.on(index, lambda worker: None)


def hold(worker):
    """Keeps a worker's thread busy until the event that is returned is set."""
    is_held, release = threading.Event(), threading.Event()
    worker.call(lambda worker: (is_held.set(), release.wait()))
    assert is_held.wait(WATCHDOG_S)
    return release

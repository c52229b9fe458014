"""The block cache: what it computes, against causal passes; that it does so once; and what failing leaves behind."""

import random
from unittest.mock import Mock

import numpy as np
import pytest
from dense_oracle import cached_kv
from driving import build_all, drain, held, planned
from tiny_engine import PAGE_TOKENS, event, item, unstarted

from rcjax.catalog.types import Item
from rcjax.engine import tasks
from rcjax.engine.claim import Claim
from rcjax.errors import ResourceExhaustedError
from rcjax.prompt import NOBODY, BlockKind, Layout, Owner, Scoring

TOLERANCE = 1e-5


@pytest.fixture
def engine(quiet):
    """Without threads: these tests drive the cache themselves."""
    return quiet


@pytest.fixture
def cache(engine):
    return engine.cache


@pytest.fixture
def builder(engine):
    return engine.builder


def read(engine, cached):
    """K and V of a cached block, each [L, S, K, H], and of the slots beyond its end."""
    pages = engine.executor.read_pages(cached.pages)
    flat = [values.reshape(values.shape[0], -1, *values.shape[3:]) for values in (pages.k, pages.v)]
    return [values[:, : cached.num_tokens] for values in flat], [values[:, cached.num_tokens :] for values in flat]


def kv_of(engine, block):
    with held(engine.cache, [block]) as ((cached,), _):
        return read(engine, cached)[0]


def spy_on_builds(engine):
    """A list that will hold how many tokens each pass from now on writes into pages."""
    build, written = engine.executor.build, []

    def spy(batch, source, destination, shape):
        written.append(int((source >= 0).sum()))
        return build(batch, source, destination, shape)

    engine.executor.build = spy
    return written


def grow(cache, former, block):
    return drain(cache, tasks.grow(cache, planned(cache, former), planned(cache, block), 0))


def history(builder, *numbers):
    return builder.history_block(builder.history_ids([event(i) for i in numbers]), Owner("", "u"))


def words(item_id, num_chars):
    """An item of exactly `num_chars` byte-level tokens, its text its own: blocks mixed up must show."""
    letters = random.Random(item_id).choices("abcdefghijklmnop", k=num_chars - 1)
    return Item(item_id, "".join(letters))


def assert_same_kv(found, expected, tolerance=TOLERANCE):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=tolerance, rtol=tolerance)


def assert_idle(cache):
    """Nothing but the instruction is pinned, and the books add up."""
    cache.directory.check_integrity()
    assert cache.directory.stats().pages_pinned == len(cache.instruction_pages)
    assert cache.num_claims == 0
    assert not cache.has_builds


class TestContent:
    def test_instruction(self, engine, oracle):
        cached = engine.cache.directory.current(BlockKind.INSTRUCTION, NOBODY)
        assert cached.token_ids.tolist() == oracle.instruction.tolist()
        assert_same_kv(read(engine, cached)[0], cached_kv(oracle.model, oracle.instruction))

    @pytest.mark.parametrize("num_tokens", [1, PAGE_TOKENS - 1, PAGE_TOKENS, PAGE_TOKENS + 1, 40])
    def test_an_item_follows_the_instruction(self, engine, builder, oracle, num_tokens):
        one = words("i", num_tokens) if num_tokens > 1 else Item("i", "")
        expected = cached_kv(oracle.model, oracle.instruction, oracle.item_ids(one))
        assert expected[0].shape[1] == num_tokens
        assert_same_kv(kv_of(engine, builder.item_block(one)), expected)

    @pytest.mark.parametrize("layout", list(Layout))
    def test_where_a_prompt_puts_a_block_changes_nothing(self, engine, builder, oracle, layout):
        items = [words("a", 11), words("b", 13)]
        prompt = builder.build(history(builder, 1), [builder.item_block(one) for one in items], layout, Scoring.LABEL)
        placed = [block for block in prompt.blocks if block.kind is BlockKind.ITEM]
        for one, block in zip(items, placed, strict=True):
            expected = cached_kv(oracle.model, oracle.instruction, oracle.item_ids(one))
            assert_same_kv(kv_of(engine, block), expected)

    def test_a_history_follows_the_instruction(self, engine, builder, oracle):
        expected = cached_kv(oracle.model, oracle.instruction, oracle.history_ids([event(1), event(2)]))
        assert_same_kv(kv_of(engine, history(builder, 1, 2)), expected)

    @pytest.mark.parametrize("lengths", [[3] * 13, [4] * 12, [3] * 30, [1] * 50, [40, 1, 39, 2, 8, 16, 9, 7, 40]])
    def test_blocks_built_together_are_as_each_alone(self, engine, builder, oracle, lengths):
        """Blocks much shorter than a page need more pages than their tokens would fill side by side."""
        items = [words(f"i{i}", n) if n > 1 else Item(f"i{i}", "") for i, n in enumerate(lengths)]
        with held(engine.cache, [builder.item_block(one) for one in items]) as (cached, built):
            assert built == lengths
            for one, block in zip(items, cached, strict=True):
                expected = cached_kv(oracle.model, oracle.instruction, oracle.item_ids(one))
                assert_same_kv(read(engine, block)[0], expected)

    def test_slots_beyond_a_block_are_not_written(self, engine, builder):
        with held(engine.cache, [builder.item_block(words("i", 11))]) as ((cached,), _):
            _, beyond = read(engine, cached)
        assert beyond[0].shape[1] == 2 * PAGE_TOKENS - 11
        assert np.isnan(beyond).all(), "pages start out as NaN here"

    def test_the_null_page_stays_zero(self, engine, builder):
        kv_of(engine, builder.item_block(words("i", 11)))
        null = engine.executor.read_pages([0])
        assert not np.any(null.k)
        assert not np.any(null.v)

    def test_evicted_and_built_again_is_the_same_to_the_bit(self, compiled, settings):
        engine = unstarted(compiled, settings, num_pages=12)  # 5 of the instruction, 6 to share
        block = engine.builder.item_block(words("a", 20))
        first = kv_of(engine, block)
        kv_of(engine, engine.builder.item_block(words("b", 40)))
        assert engine.cache.directory.num_evictions == 1
        assert engine.cache.directory.current(BlockKind.ITEM, Owner("", "a")) is None
        again = kv_of(engine, block)
        assert [values.tobytes() for values in again] == [values.tobytes() for values in first]


class TestFinding:
    def test_a_miss_is_built_once_and_hit_from_then_on(self, cache, builder):
        block = builder.item_block(item(1))
        before = cache.num_misses, cache.num_hits
        for expected_built in (len(block), 0, 0):
            with held(cache, [block]) as (_, built):
                assert built == [expected_built]
        assert (cache.num_misses - before[0], cache.num_hits - before[1]) == (1, 2)

    def test_one_block_asked_for_twice_is_built_once(self, cache, builder):
        blocks = [builder.item_block(item(1)), builder.item_block(item(2)), builder.item_block(item(1))]
        with held(cache, blocks) as (cached, built):
            assert built == [len(blocks[0]), len(blocks[1]), 0]
            assert cached[0] is cached[2]
        assert_idle(cache)

    def test_the_instruction_is_found(self, cache, builder):
        """It was computed at start-up: asking for it must not compute a second copy after the first."""
        used = cache.directory.stats().pages_used
        with held(cache, [builder.instruction_block()]) as (_, built):
            assert built == [0]
        assert cache.directory.stats().pages_used == used

    def test_held_blocks_are_pinned_inside_and_not_after(self, cache, builder):
        with held(cache, [builder.item_block(item(1))]) as ((cached,), _):
            assert cached.pins == 1
        assert_idle(cache)

    def test_a_failing_reader_leaves_nothing_pinned(self, cache, builder):
        with pytest.raises(RuntimeError, match="reader"), held(cache, [builder.item_block(item(1))]):
            raise RuntimeError("the reader failed")
        assert_idle(cache)

    def test_dropped_while_read_stays_readable_and_is_not_found(self, engine, builder):
        cache, block = engine.cache, builder.item_block(item(1))
        expected = kv_of(engine, block)
        with held(cache, [block]) as ((cached,), _):
            assert cache.directory.drop(BlockKind.ITEM, Owner("", "i1"))
            with held(cache, [builder.item_block(words("b", 40))]) as ((other,), _):  # takes what pages are free
                assert not set(other.pages) & set(cached.pages)
                assert_same_kv(read(engine, cached)[0], expected, 0)
        assert_idle(cache)
        assert cache.directory.current(BlockKind.ITEM, Owner("", "i1")) is None
        assert not cache.directory.drop(BlockKind.ITEM, Owner("", "i1"))


class TestOvertaking:
    def test_both_builds_of_content_that_was_dropped_in_between(self, cache, builder):
        """The first is read by whoever waits for it, the second is found."""
        block = planned(cache, builder.item_block(item(1)))
        first, second = (Claim([block], version, is_urgent=True) for version in (1, 3))
        assert cache.grant(first)
        cache.directory.drop(BlockKind.ITEM, Owner("", "i1"), 2)
        assert cache.grant(second)
        assert first.pins[0] is not second.pins[0]
        build_all(cache)
        assert first.is_done
        assert second.is_done
        assert cache.directory.current(BlockKind.ITEM, Owner("", "i1")).pages == second.pins[0].pages
        for claim in (first, second):
            cache.release(claim)
        assert_idle(cache)

    def test_whoever_lets_go_of_the_first_leaves_the_second(self, cache, builder):
        block = planned(cache, builder.item_block(item(1)))
        first, second = (Claim([block], version, is_urgent=True) for version in (1, 3))
        assert cache.grant(first)
        cache.directory.drop(BlockKind.ITEM, Owner("", "i1"), 2)
        assert cache.grant(second)
        cache.release(first)
        build_all(cache)
        assert second.is_done
        cache.release(second)
        assert_idle(cache)


class TestClaims:
    def test_nothing_is_pinned_where_pages_lack(self, compiled, settings):
        engine = unstarted(compiled, settings, num_pages=12)
        cache, builder = engine.cache, engine.builder
        holder = Claim([planned(cache, builder.item_block(words("a", 40)))], 0, is_urgent=True)
        waiting = Claim([planned(cache, builder.item_block(words("b", 16)))], 0, is_urgent=True)
        assert cache.grant(holder)
        num_pinned = cache.directory.stats().pages_pinned
        assert not cache.grant(waiting)
        assert (cache.directory.stats().pages_pinned, waiting.pins) == (num_pinned, [])
        build_all(cache)
        cache.release(holder)
        assert cache.grant(waiting)
        build_all(cache)
        cache.release(waiting)
        assert_idle(cache)

    def test_a_claim_that_joins_a_build_waits_for_it_and_keeps_it(self, cache, builder):
        block = planned(cache, builder.item_block(item(1)))
        first, second = (Claim([block], 0, is_urgent=is_urgent) for is_urgent in (False, True))
        assert cache.grant(first)
        assert not cache.has_urgent_builds
        assert cache.grant(second)
        assert cache.has_urgent_builds
        assert (first.num_built, second.num_built) == ([len(block.block)], [0])
        cache.release(first)
        assert not second.is_done
        build_all(cache)
        assert second.is_done
        cache.release(second)
        assert_idle(cache)

    def test_what_nobody_waits_for_any_more_is_not_built(self, engine, cache, builder):
        built = spy_on_builds(engine)
        claim = Claim([planned(cache, builder.item_block(item(1)))], 0, is_urgent=True)
        assert cache.grant(claim)
        cache.release(claim)
        build_all(cache)
        assert not built
        assert_idle(cache)


class TestFailing:
    def test_a_pool_that_is_too_small(self, compiled, settings):
        engine = unstarted(compiled, settings, num_pages=12)
        cache, builder = engine.cache, engine.builder
        small = builder.item_block(words("small", 8))
        kept = kv_of(engine, small)
        with (
            pytest.raises(ResourceExhaustedError, match="pages are wanted"),
            held(cache, [small, builder.item_block(words("a", 40)), builder.item_block(words("b", 40))]),
        ):
            pass
        assert_idle(cache)
        assert_same_kv(kv_of(engine, small), kept, 0)
        kv_of(engine, builder.item_block(words("a", 40)))  # one at a time there is room

    @pytest.mark.parametrize("failing_pass", [1, 2, 3])
    def test_a_pass_that_fails_leaves_nothing_pinned(self, engine, builder, monkeypatch, failing_pass):
        """Some blocks of the same call are committed by then."""
        blocks = [builder.item_block(words(f"i{i}", 40)) for i in range(9)]  # three to a pass
        build, calls = engine.executor.build, []

        def flaky(*args):
            calls.append(args)
            if len(calls) == failing_pass:
                raise RuntimeError("out of memory")
            return build(*args)

        monkeypatch.setattr(engine.executor, "build", flaky)
        with pytest.raises(RuntimeError, match="out of memory"), held(engine.cache, blocks):
            pass
        assert len(calls) == failing_pass
        assert_idle(engine.cache)
        with held(engine.cache, blocks) as (cached, _):
            assert all(not np.isnan(read(engine, block)[0]).any() for block in cached)


def grown(engine, former, block):
    """Grows from a cached `former`; returns the grown block's KV and how many tokens were computed."""
    kv_of(engine, former)
    built = spy_on_builds(engine)
    grow(engine.cache, former, block)
    num_built = sum(built)
    cached = engine.cache.directory.current(block.kind, block.owner)
    assert cached.token_ids.tolist() == block.token_ids.tolist()
    assert_idle(engine.cache)
    return read(engine, cached)[0], num_built


class TestGrowing:
    @pytest.mark.parametrize("more", [1, 7, 8, 9, 30])
    @pytest.mark.parametrize("former_len", [5, 7, 8, 9, 16, 41])
    def test_equals_building_the_whole(self, engine, builder, oracle, former_len, more):
        """From a page partly filled, just full, just begun; to within it, to its end and over several."""
        ids = oracle.text("z".join("abcdefghijklmnopqrstuvwxyz0123456789" * 3))[: former_len + more]
        former, block = (builder.history_block(part, Owner("", "u")) for part in (ids[:former_len], ids))
        found, num_built = grown(engine, former, block)
        assert num_built == more
        assert_same_kv(found, cached_kv(oracle.model, oracle.instruction, ids))

    def test_the_cached_part_keeps_its_bytes_and_pages(self, engine, builder):
        former, block = history(builder, 1), history(builder, 1, 2)
        kept = kv_of(engine, former)
        pages = engine.cache.directory.current(BlockKind.HISTORY, Owner("", "u")).pages
        found, _ = grown(engine, former, block)
        assert engine.cache.directory.current(BlockKind.HISTORY, Owner("", "u")).pages[: len(pages)] == pages
        assert_same_kv([values[:, : len(former)] for values in found], kept, 0)

    def test_many_steps(self, engine, builder, oracle):
        for n in range(1, 6):
            grow(engine.cache, history(builder, *range(n)), history(builder, *range(n + 1)))
        expected = cached_kv(oracle.model, oracle.instruction, oracle.history_ids([event(i) for i in range(6)]))
        built = spy_on_builds(engine)
        assert_same_kv(kv_of(engine, history(builder, *range(6))), expected)
        assert not built

    def test_another_beginning_is_built_anew(self, engine, builder, oracle):
        block = history(builder, 2, 3)
        found, num_built = grown(engine, history(builder, 1), block)
        assert num_built == len(block)
        assert_same_kv(found, cached_kv(oracle.model, oracle.instruction, block.token_ids))

    def test_the_same_content_costs_nothing(self, engine, builder):
        _, num_built = grown(engine, history(builder, 1, 2), history(builder, 1, 2))
        assert num_built == 0

    def test_an_evicted_former_is_no_trouble(self, engine, builder, oracle):
        block = history(builder, 1, 2)
        grow(engine.cache, history(builder, 1), block)
        assert_same_kv(kv_of(engine, block), cached_kv(oracle.model, oracle.instruction, block.token_ids))

    def test_while_another_reads_the_former(self, engine, builder, oracle):
        former, block = history(builder, 1), history(builder, 1, 2)
        with held(engine.cache, [former]) as ((cached,), _):
            kept = read(engine, cached)[0]
            grow(engine.cache, former, block)
            assert_same_kv(read(engine, cached)[0], kept, 0)
        assert_idle(engine.cache)
        assert_same_kv(kv_of(engine, block), cached_kv(oracle.model, oracle.instruction, block.token_ids))

    def test_more_than_a_growing_pass_can_take(self, engine, builder, oracle):
        """50 tokens on 40: the small build shape has too few tokens, the large one too few pages for the old ones."""
        ids = oracle.text("z".join("abcdefghijklmnopqrstuvwxyz0123456789" * 3))[:90]
        former, block = (builder.history_block(part, Owner("", "u")) for part in (ids[:40], ids))
        found, _ = grown(engine, former, block)
        assert_same_kv(found, cached_kv(oracle.model, oracle.instruction, ids))

    def test_no_room_leaves_the_former_as_it_was(self, compiled, settings):
        engine = unstarted(compiled, settings, num_pages=9)
        builder = engine.builder
        former, block = history(builder, 1), history(builder, 1, 2)
        kept = kv_of(engine, former)
        with pytest.raises(ResourceExhaustedError):
            grow(engine.cache, former, block)
        assert_idle(engine.cache)
        built = spy_on_builds(engine)
        assert_same_kv(kv_of(engine, former), kept, 0)
        assert not built

    def test_a_pass_that_fails_gives_the_pages_back(self, engine, builder, oracle, monkeypatch):
        former, block = history(builder, 1), history(builder, 1, 2)
        kv_of(engine, former)
        with monkeypatch.context() as patch:
            patch.setattr(engine.executor, "build", Mock(side_effect=RuntimeError("out of memory")))
            with pytest.raises(RuntimeError, match="out of memory"):
                grow(engine.cache, former, block)
        assert_idle(engine.cache)
        assert_same_kv(kv_of(engine, block), cached_kv(oracle.model, oracle.instruction, block.token_ids))

"""Feeds and outboxes: whoever asks for what it has not seen gets all of it in order, or hears that some is gone."""

import asyncio
import threading

from hypothesis import given
from hypothesis import strategies as st

from rcjax.cluster.ray.feed import Feed
from rcjax.cluster.ray.outbox import MAX_SENT, Outbox, ToldResidency
from rcjax.serving.residency import Residency

KEYS = [bytes([number]) * 32 for number in range(1, 9)]


@given(steps=st.lists(st.one_of(st.integers(1, 4), st.none()), max_size=40), kept=st.integers(1, 8))
def test_a_reader_misses_nothing_that_it_is_not_told_of(steps, kept):
    feed, put, read, at = Feed(kept), [], [], 0
    for step in steps:
        if step is not None:
            for _ in range(step):
                put.append(len(put))
                feed.put(put[-1])
            continue
        found = feed.since(at, 3)
        if found is None:
            assert feed.end - at > kept
            read, at = put.copy(), feed.end  # what a reader does then: it takes all over
        else:
            assert len(found) <= 3
            read += found
            at += len(found)
        assert read == put[:at]


def test_a_number_that_is_yet_to_come_is_no_place_to_read_from():
    feed = Feed(4)
    assert feed.since(1, 10) is None


def test_who_waits_is_woken_by_an_entry_and_by_a_wake():
    feed = Feed(4)

    async def wait(wake):
        waiting = asyncio.create_task(feed.wait(feed.end, 60.0))
        await asyncio.sleep(0)
        thread = threading.Thread(target=wake)
        thread.start()
        await asyncio.wait_for(waiting, 30.0)
        thread.join()

    asyncio.run(wait(lambda: feed.put("one")))
    asyncio.run(wait(feed.wake))
    asyncio.run(feed.wait(0, 60.0))  # it is there already
    asyncio.run(feed.wait(1, 0.001))  # nothing comes


@given(steps=st.lists(st.tuples(st.booleans(), st.integers(0, 1), st.sampled_from(KEYS)), max_size=60))
def test_messages_bring_a_router_s_residency_to_what_the_host_s_is(steps):
    outbox = Outbox()
    own, told = ToldResidency(2, outbox), Residency(5)
    at = 0
    for number, (is_commit, index, key) in enumerate(steps):
        (own.commit if is_commit else own.evict)(index, key)
        if number % 7 == 0:
            messages = outbox.since(at)
            messages.tell(told, 3)
            at = messages.end
    messages = outbox.since(at)
    messages.tell(told, 3)
    assert told.holders(KEYS)[:, 3:].tolist() == own.holders(KEYS).tolist()
    assert not told.holders(KEYS)[:, :3].any()


def test_many_messages_come_in_parts():
    outbox = Outbox()
    for _ in range(MAX_SENT + 1):
        outbox.put(0, KEYS[0], is_commit=True)
    first = outbox.since(0)
    assert (len(first), first.end) == (MAX_SENT, MAX_SENT)
    assert len(outbox.since(first.end)) == 1

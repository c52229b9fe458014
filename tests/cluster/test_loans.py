"""KV that is lent to another host: as much as there is room for, and what was damaged on its way is not taken."""

import asyncio
import dataclasses
from concurrent.futures import Future

import jax
import numpy as np
import pytest
from tiny_engine import item

from rcjax.cluster.ray.lending import Loan, LoanDesk, RemotePeers, digest_of
from rcjax.cluster.ray.remote_slice import HeldElsewhere


@pytest.fixture
def lent(engine):
    """An engine that holds three items, and the blocks of these and of one that it lacks."""
    engine.put_items([item(number) for number in range(3)])
    blocks = [engine.planner.item_block(owner) for owner in engine.library.item_owners]
    missing = dataclasses.replace(blocks[0], key=b"?" * 32)
    return engine, [*blocks, missing]


def test_what_is_lent_is_what_the_pages_hold(lent):
    engine, blocks = lent
    loan = asyncio.run(LoanDesk(2**20).lend(engine.worker, blocks))
    delivery = loan.delivery()
    assert delivery.is_found == (True, True, True, False)
    (held,) = engine.call_workers(
        lambda worker: [
            page for one in blocks[:3] for page in worker.cache.directory.find(one.key, one.block.token_ids).pages
        ]
    )
    (expected,) = engine.call_workers(lambda worker: worker.cache.executor.read_pages(held))
    found = jax.tree.map(lambda *parts: np.concatenate(parts, axis=1)[:, : len(held)], *delivery.parts)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert np.array_equal(one, other, equal_nan=True)  # what no token is in was never written


def test_damage_is_found(lent):
    engine, blocks = lent
    loan = asyncio.run(LoanDesk(2**20).lend(engine.worker, blocks))
    damaged = jax.tree.map(np.array, loan.parts)
    jax.tree.leaves(damaged)[-1][0, 0, 0, 0, 0] += 1
    with pytest.raises(ValueError, match="its digest differs"):
        Loan(loan.is_found, loan.orders, damaged, loan.digest).delivery()


def test_who_finds_no_room_is_told_that_nothing_is_held(lent):
    engine, blocks = lent
    pages = sum(engine.executor.num_pages_for(len(one.block)) for one in blocks)
    num_bytes = pages * engine.executor.format.page_bytes

    async def lend_twice(room):
        desk = LoanDesk(room)
        loans = await asyncio.gather(*(desk.lend(engine.worker, blocks) for _ in range(2)))
        again = await desk.lend(engine.worker, blocks)
        return [any(loan.delivery().is_found) for loan in (*loans, again)]

    assert asyncio.run(lend_twice(2 * num_bytes)) == [True, True, True]
    assert asyncio.run(lend_twice(num_bytes)) == [True, False, True], "the room is free again"
    assert asyncio.run(lend_twice(0)) == [False, False, False]


def test_the_digest_is_of_all_bytes_in_their_order():
    one, other = np.arange(4, dtype=np.float32), np.arange(4, 8, dtype=np.float32)
    assert digest_of([one, other]) != digest_of([other, one])
    assert digest_of([one]) == digest_of([one.copy()])
    assert digest_of([one.astype(jax.numpy.bfloat16)]), "types that NumPy itself does not know"


def test_hints_say_whom_to_ask_and_the_newest_counts(lent):
    _, blocks = lent
    peers = RemotePeers(None)
    keys = [one.key for one in blocks]
    assert peers.holders(keys) == [[], [], [], []]
    peers.note(blocks, HeldElsewhere((0, 2), (("host-1", "a", 0), ("host-1", "a", 1))))
    first, none, third, _ = peers.holders(keys)
    assert none == []
    assert len(first) == len(third) == 1
    assert first[0] is not third[0], "two slices"
    assert peers.holders(keys)[0] == first, "the same one each time, as a source that was tried is known by it"
    peers.note(blocks, HeldElsewhere((0,), (("host-1", "b", 0),)))
    assert peers.holders(keys)[0] != first, "it has started anew"


def test_a_lender_that_is_gone_fails_the_fetch_and_no_more(lent):
    _, blocks = lent
    peers = RemotePeers(None)
    peers.note(blocks, HeldElsewhere((0,), (("host-1", "a", 0),)))
    ((lender,), *_) = peers.holders([one.key for one in blocks])

    class Gone:
        def ask(self, method, *args):
            future = Future()
            future.set_exception(ValueError("the host is gone"))
            return future

    lender._host = Gone()
    with pytest.raises(ValueError, match="the host is gone"):
        lender.lend(blocks[:1]).result(10)

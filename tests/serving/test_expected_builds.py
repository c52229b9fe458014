"""What waits is estimated with each block that no slice holds once, however many requests lack it."""

from concurrent.futures import Future
from typing import Any, TypeAlias

import pytest
from fake_router import Gate
from fake_slice import NO_LIMITS, Slices, ask
from hypothesis import given
from hypothesis import strategies as st

from rcjax.serving.expected_builds import ExpectedBuilds

BLOCK_S = 100.0
Step: TypeAlias = tuple[int, frozenset[int] | None]


class BuildCosts:
    """A letter of a block's text takes twenty seconds: "No. 1" takes `BLOCK_S`."""

    def build_s(self, num_tokens: int) -> float:
        return 20.0 * num_tokens

    def fetch_s(self, num_tokens: int) -> float:
        return 0.0


def test_a_block_that_several_requests_lack_is_waited_for_once() -> None:
    gate = Gate()
    with Slices(limits=NO_LIMITS, costs=BuildCosts()) as slices:
        slices.worker.before = lambda name: gate()
        admission = slices.router.admission
        first = slices.router.submit(ask(1, 2))  # two seconds, and two blocks
        assert gate.entered.wait(60)
        assert admission.backlog_s == 2 + 2 * BLOCK_S
        futures = [slices.router.submit(ask(1, 2)) for _ in range(3)]
        futures.append(slices.router.submit(ask(2, 3)))  # of its own it lacks one
        while len(admission._to_run) != 4:
            pass
        assert admission.backlog_s == pytest.approx(5 * 2 + 3 * BLOCK_S)
        for future in reversed(futures):
            future.cancel()
        assert admission.backlog_s == 2 + 2 * BLOCK_S
        gate.open.set()
        first.result(60)
        # The fake slice told of no block: what is asked next lacks all again.
        gate.entered.clear()
        gate.open.clear()
        again = slices.router.submit(ask(2, 3))
        assert gate.entered.wait(60)
        assert admission.backlog_s == 2 + 2 * BLOCK_S
        gate.open.set()
        again.result(60)


@given(st.lists(st.tuples(st.integers(0, 3), st.none() | st.frozensets(st.integers(0, 5))), max_size=30))
def test_a_block_is_one_call_s_at_a_time_and_nobody_s_at_the_end(steps: list[Step]) -> None:
    calls: list[Future[Any]] = [Future() for _ in range(4)]
    builds, owner = ExpectedBuilds(), dict[bytes, int]()
    for number, blocks in steps:  # None: the call is over
        if blocks is None:
            builds.release(calls[number])
            owner = {key: other for key, other in owner.items() if other != number}
        else:
            keys = {bytes([block]) for block in blocks}
            expected = {key for key in keys if owner.get(key, number) == number}
            assert builds.claim(calls[number], keys) == expected
            owner |= dict.fromkeys(expected, number)
        assert len(builds) == len(owner)
    for call in calls:
        builds.release(call)
    assert len(builds) == 0

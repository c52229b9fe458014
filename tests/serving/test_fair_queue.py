"""The fair queue against its definition, written out, and against what it promises callers."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rcjax.serving.fair_queue import FairQueue

CALLERS = "abcd"
steps = st.one_of(
    st.tuples(st.just("push"), st.sampled_from(CALLERS), st.integers(1, 8)),
    st.tuples(st.just("push"), st.sampled_from(CALLERS), st.integers(1, 8)),
    st.tuples(st.just("pop")),
    st.tuples(st.just("remove"), st.integers(0, 50)),
)


class Tags:
    """Start-time fair queueing as the paper has it, by a look at every entry: (start, since, number, caller, seconds).

    `since` is the number of the entry with which its caller came to be known, which breaks ties.
    """

    def __init__(self) -> None:
        self.waiting: list[tuple[int, str, float]] = []  # number, caller, seconds
        self.next_start: dict[str, float] = {}
        self.since: dict[str, int] = {}
        self.now = 0.0

    def push(self, number: int, caller: str, seconds: float) -> None:
        if caller not in self.next_start:
            self.next_start[caller] = self.now
            self.since[caller] = number
        self.waiting.append((number, caller, seconds))

    def order(self) -> list[int]:
        """The numbers of what waits, in the order in which it would leave."""
        start = dict(self.next_start)
        left, order = list(self.waiting), []
        while left:
            heads = {}
            for number, caller, seconds in left:
                heads.setdefault(caller, (number, seconds))
            caller = min(heads, key=lambda name: (start[name], self.since[name]))
            number, seconds = heads[caller]
            start[caller] += seconds
            order.append(number)
            left = [one for one in left if one[0] != number]
        return order

    def pop(self) -> int:
        number = self.order()[0]
        _, caller, seconds = next(one for one in self.waiting if one[0] == number)
        # Callers who have nothing there and whose turn it would have been come back as newcomers.
        callers = {name for _, name, _ in self.waiting}
        turn = self.next_start[caller], self.since[caller]
        for name in [name for name in self.next_start if name not in callers]:
            if (self.next_start[name], self.since[name]) < turn:
                del self.next_start[name]
        self.now = self.next_start[caller]
        self.next_start[caller] += seconds
        self.remove(number)
        return number

    def remove(self, number: int) -> None:
        self.waiting = [one for one in self.waiting if one[0] != number]
        if not self.waiting:
            self.next_start.clear()
            self.now = 0.0


@settings(max_examples=300, deadline=None)
@given(st.lists(steps, max_size=60))
def test_leaves_in_the_order_of_the_definition(taken: list[tuple]) -> None:
    queue: FairQueue[int] = FairQueue()
    tags = Tags()
    for number, step in enumerate(taken):
        if step[0] == "push":
            queue.push(step[1], number, float(step[2]))
            tags.push(number, step[1], float(step[2]))
        elif not tags.waiting:
            assert queue.first() is None
            with pytest.raises(IndexError):
                queue.pop()
        elif step[0] == "pop":
            first = queue.first()
            assert first is not None
            assert first[0] == queue.pop() == tags.pop()
        else:
            gone, caller, _ = tags.waiting[step[1] % len(tags.waiting)]
            queue.remove(caller, gone)
            tags.remove(gone)
        assert len(queue) == len(tags.waiting)
    order = tags.order()
    assert [queue.pop() for _ in order] == order
    assert queue._flows == {}
    assert queue._heap == []


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(CALLERS), st.integers(1, 8)), min_size=1, max_size=40))
def test_callers_who_all_wait_have_about_as_much(entries: list[tuple[str, int]]) -> None:
    """Theorem 1 of the paper: the difference is at most the largest entry of the one and of the other."""
    queue: FairQueue[int] = FairQueue()
    for number, (caller, seconds) in enumerate(entries):
        queue.push(caller, number, float(seconds))
    largest = {name: max((s for caller, s in entries if caller == name), default=0) for name in CALLERS}
    left = {name: [s for caller, s in entries if caller == name] for name in CALLERS}
    had = dict.fromkeys(CALLERS, 0)
    while len(queue):
        waiting = [name for name in CALLERS if left[name]]
        for one in waiting:
            for other in waiting:
                assert abs(had[one] - had[other]) <= largest[one] + largest[other]
        caller, seconds = entries[queue.pop()]
        had[caller] += seconds
        left[caller].pop()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(CALLERS), st.integers(1, 8)), max_size=40), st.integers(0, 10))
def test_what_is_ahead_of_a_newcomer(entries: list[tuple[str, int]], num_popped: int) -> None:
    """Held against what leaves before it, with an entry of each other caller's to spare."""
    queue: FairQueue[int] = FairQueue()
    for number, (caller, seconds) in enumerate(entries):
        queue.push(caller, number, float(seconds))
    for _ in range(min(num_popped, len(entries))):
        queue.pop()
    expected_s = queue.ahead_s("a")
    queue.push("a", -1, 1.0)
    ahead_s = 0.0
    while (number := queue.pop()) != -1:
        ahead_s += entries[number][1]
    others = {caller: max(s for name, s in entries if name == caller) for caller, _ in entries if caller != "a"}
    assert expected_s == pytest.approx(ahead_s, abs=sum(others.values()) + 1e-9)
    if not others:
        assert expected_s == ahead_s


def test_a_flood_delays_another_caller_by_one_entry() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(1000):
        queue.push("flood", f"flood-{number}", 1.0)
    assert queue.ahead_s("flood") == 1000.0
    assert queue.pop() == "flood-0"
    assert queue.ahead_s("shop") == 0.0
    queue.push("shop", "shop-0", 1.0)
    assert [queue.pop(), queue.pop()] == ["shop-0", "flood-1"]


def test_what_is_taken_back_is_not_held_against_its_caller() -> None:
    queue: FairQueue[str] = FairQueue()
    for name in ("a-0", "a-1", "b-0", "b-1"):
        queue.push(name[0], name, 1.0)
    queue.push("a", "a-large", 100.0)
    queue.push("a", "a-2", 1.0)
    queue.remove("a", "a-large")
    assert [queue.pop() for _ in range(5)] == ["a-0", "b-0", "a-1", "b-1", "a-2"]


def test_who_comes_late_has_its_share_from_then_on_and_nothing_for_before() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(100):
        queue.push("flood", f"flood-{number}", 1.0)
    for _ in range(50):
        queue.pop()
    for number in range(10):
        queue.push("shop", f"shop-{number}", 1.0)
    assert queue.ahead_s("shop") == 20.0 - 1.0  # ten of its own, nine of the others': both begin with one
    left = [queue.pop().split("-")[0] for _ in range(20)]
    assert left == ["shop", "flood"] * 10

"""What the directory says of itself, and that damage to its books is noticed, whole or a part at a time."""

from array import array

import pytest
from directory_kit import build, key_of, new_directory, reserve

from rcjax.cache import BlockState, IntegrityError


def test_stats_count_by_kind_and_state():
    directory = new_directory()
    build(directory, "a", 5)
    reader = build(directory, "b", kind="history")
    directory.pin(reader)
    reserve(directory, "c")
    stats = directory.stats()
    assert stats.num_blocks == {"item": 1, "history": 1}
    assert stats.num_tokens == 9
    assert (stats.pages_total, stats.pages_used, stats.pages_pinned) == (4, 4, 2)
    assert directory.pages_used_by_kind() == {"item": 3, "history": 1}
    directory.check_integrity()


class Books:
    """A directory with an idle block, one that is read and one pending; damages what it knows of the idle one."""

    def __init__(self):
        self.directory = new_directory(8)
        self.block = build(self.directory, "a", 5)
        self.read = build(self.directory, "b")
        self.directory.pin(self.read)
        self.pending = reserve(self.directory, "c", 3)
        self.slot = self.block.slot
        self.ready = self.directory._ready
        self.columns = self.ready.columns
        self.pool = self.directory.pool

    def first_page_of_another(self):
        self.columns.first_page[self.slot] = self.read.pages[0]

    def first_page_of_pending(self):
        self.columns.first_page[self.slot] = self.pending.pages[0]

    def null_page(self):
        self.columns.first_page[self.slot] = 0

    def page_that_does_not_exist(self):
        self.columns.first_page[self.slot] = 99

    def links(self):
        self.pool._next[self.block.pages[0]] = self.read.pages[0]

    def links_end_early(self):
        self.pool._next[self.block.pages[0]] = -1 - self.slot

    def leak(self):
        self.pool.allocate(1)

    def freed_while_in_use(self):
        self.pool.free(self.block.pages)

    def freed_while_pending(self):
        self.pool.free(self.pending.pages)

    def number_of_tokens(self):
        self.columns.num_tokens[self.slot] = 1

    def key(self):
        record = self.columns._records[self.slot]
        self.columns._records[self.slot] = key_of("other") + record[32:]

    def tokens(self):
        record = self.columns._records[self.slot]
        self.columns._records[self.slot] = record[:-1] + b"\4"

    def owner(self):
        self.columns._ids[self.slot] = "other"

    def hash_chain(self):
        self.columns._key_buckets = array("i", bytes(4 * len(self.columns._key_buckets)))

    def pins(self):
        self.block.pins = 1

    def negative_pins(self):
        self.read.pins = -1

    def pins_of_pending(self):
        self.pending.pins = 0

    def state(self):
        self.block.state = BlockState.PENDING

    def state_of_pending(self):
        self.pending.state = BlockState.READY

    def pages_of_handle(self):
        self.block.pages = self.block.pages[::-1]

    def pages_of_pending(self):
        self.pending.pages = self.read.pages

    def handle_key(self):
        self.block.key = key_of("other")

    def policy(self):
        self.ready._policy.pop()

    def pinned(self):
        self.ready._pinned.clear()

    def policy_order(self):
        build(self.directory, "d", cost=0.5)  # the cost per page of "a", so it stands after it in the same list
        self.ready._policy._uses[2 * self.slot] = 100.0

    def evictable_pages(self):
        self.ready.num_evictable_pages += 1

    def tokens_in_all(self):
        self.columns.num_tokens_in_all += 1

    def blocks_by_kind(self):
        self.columns.num_blocks_by_kind["item"] += 1

    def pages_by_kind(self):
        self.directory._accounts.by_kind["item"] -= 1

    def free_slots(self):
        self.columns._free.append(self.slot)


DAMAGES = [name for name in vars(Books) if not name.startswith("_")]


def round_in_parts(directory):
    """A round, each part the least that there is."""
    while not directory.check_integrity_within(0.0, lambda: 0.0):
        pass


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_noticed(damage):
    books = Books()
    books.directory.check_integrity()
    round_in_parts(books.directory)
    getattr(books, damage)()
    with pytest.raises(IntegrityError):
        round_in_parts(books.directory)
    with pytest.raises(IntegrityError):
        books.directory.check_integrity()


def test_a_lost_free_page_is_noticed_by_the_whole_check():
    directory = new_directory()
    directory.pool._next[directory.pool._first_free] = 0
    with pytest.raises(IntegrityError, match="free"):
        directory.check_integrity()


def test_the_budget_ends_a_part_and_the_next_goes_on():
    directory = new_directory(200)
    for i in range(100):
        build(directory, str(i))
    now = 0.0

    def clock():
        nonlocal now
        now += 1.0  # each look at the clock costs a second
        return now

    whole = []
    for budget_s in (0.5, 1.5, 3.5, 1000.0):
        num = 1
        while not directory.check_integrity_within(budget_s, clock):
            num += 1
        whole.append(num)
    assert whole == sorted(whole, reverse=True)
    assert whole[0] > whole[1] > whole[2] > whole[3] == 1


def test_damage_is_found_whatever_comes_and_goes_meanwhile():
    directory = new_directory(400)
    blocks = [build(directory, f"kept {i}") for i in range(100)]
    directory.check_integrity_within(0.0, lambda: 0.0)
    directory._ready.columns.first_page[blocks[0].slot] = 0  # behind the place where the check stands

    def come_and_go():
        for i in range(100):
            build(directory, f"passing {i % 7}", key=f"passing {i}")
            directory.check_integrity_within(0.0, lambda: 0.0)

    with pytest.raises(IntegrityError, match="page=0 is not allocated"):
        come_and_go()

"""The directory in any order of calls, against lists searched from end to end and a fake device's memory.

The model predicts every hit, every eviction and every refusal: with one cost per page the policy is LRU, which a
list in order of use is too. Each page of the fake device holds what was last written to it, and what a block's
pages hold is read back, by whoever may read it, after every step.
"""

import pytest
from directory_kit import key_of, own
from directory_model import Expected, Model
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from rcjax.cache import SCRATCH, BlockBusyError, BlockDirectory, GreedyDual, PagePool
from rcjax.errors import ResourceExhaustedError

PAGE_TOKENS = 2
GARBAGE = "half written"

# One id, as far as that goes: of two tenants, and of content that came inline.
OWNERS = [own("a"), own("a", "tenant"), own("a")._replace(inline="any")]
names = st.tuples(st.sampled_from(["item", "history"]), st.sampled_from(OWNERS))
# Prefixes of two sequences: a text changes, comes back, and can be appended to.
texts = st.tuples(st.sampled_from([0, 100]), st.integers(1, 7)).map(lambda t: tuple(range(t[0], t[0] + t[1])))


class DirectoryMachine(RuleBasedStateMachine):
    @initialize(capacity=st.integers(4, 9), max_replica_pages=st.integers(0, 4))
    def start(self, capacity, max_replica_pages):
        self.directory = BlockDirectory(PagePool(capacity + 1, PAGE_TOKENS), GreedyDual())
        self.directory.replicas.max_pages = max_replica_pages
        self.directory.on_last_look(self.look)
        self.model = Model(capacity, max_replica_pages)
        self.device = {}  # (page, slot) -> what was written there

    # ---- the fake device

    def write(self, block, start, end, content):
        for at in range(start, end):
            page, slot = block.handle.pages[at // PAGE_TOKENS], at % PAGE_TOKENS
            self.device[page, slot] = (block.name, block.ids[at], at) if content is None else content

    def look(self, handle):
        """Called for what is about to be evicted, which must be whole for the last time."""
        expected = self.model.evicted.pop(0)
        assert handle is expected.handle
        self.check_content(expected)

    def check_content(self, block):
        pages = block.handle.pages
        assert len(pages) == block.num_pages
        for at in range(block.written):
            there = self.device[pages[at // PAGE_TOKENS], at % PAGE_TOKENS]
            assert there == (block.name, block.ids[at], at)

    # ---- choosing: an index into those that there are, or no step at all

    def pick(self, data, condition):
        choice = [b for b in self.model.blocks if condition(b)]
        return data.draw(st.sampled_from(choice)) if choice else None

    # ---- rules

    @rule(name=names, ids=texts)
    def start_building(self, name, ids):
        self.reserve(name, ids)

    def reserve(self, name, ids):
        num_pages = -(-len(ids) // PAGE_TOKENS)

        def call():
            return self.directory.reserve(key_of((name, ids)), *name, ids, float(num_pages))

        if self.model.find(name, ids):
            with pytest.raises(ValueError, match="already"):
                call()
        elif not self.model.fits(num_pages):
            with pytest.raises(ResourceExhaustedError):
                call()
        else:
            self.model.make_room(num_pages)
            block = Expected(name, ids, num_pages, call())
            self.model.blocks.append(block)
            self.write(block, 0, len(ids), GARBAGE)  # the forward pass may write from now on
            return block
        return None

    @rule(data=st.data())
    def commit(self, data):
        block = self.pick(data, lambda b: b.state == "pending" and b.name[0] != SCRATCH)
        if block is not None:
            self.finish(block)

    @rule(name=names, ids=texts, is_replica=st.booleans())
    def build(self, name, ids, is_replica):
        """The usual course in one step: without it the pool fills up with what is pending and nothing is evicted."""
        block = self.reserve(name, ids)
        if block is not None:
            if is_replica:
                self.directory.mark_replica(block.handle)
                block.is_replica = True
            self.finish(block)
            self.directory.unpin(block.handle)
            self.model.unpin(block)

    def finish(self, block):
        self.write(block, block.written, len(block.ids), None)
        block.written = len(block.ids)
        self.directory.commit(block.handle)
        if block.doomed:
            block.state = "retired"
            return
        for other in self.model.blocks[: self.model.blocks.index(block)]:
            if other.state == "pending" and other.name == block.name:
                other.doomed = True
        if former := self.model.ready(block.name):
            self.model.retire(former)
        block.state = "ready"

    @rule(data=st.data(), how=st.sampled_from(["abort", "drop", "release"]))
    def give_up(self, data, how):
        """One rule for three, so that blocks are built more often than given up."""
        {"abort": self.abort, "drop": self.drop, "release": self.release}[how](data)

    def abort(self, data):
        block = self.pick(data, lambda b: b.state == "pending" and b.name[0] != SCRATCH)
        if block is not None:
            self.directory.abort(block.handle)
            block.state = "retired"
            self.model.unpin(block)

    @rule(name=names, ids=texts)
    def lookup(self, name, ids):
        self.check_lookup(name, ids)

    @rule(data=st.data())
    def lookup_again(self, data):
        block = self.pick(data, lambda b: b.name[0] != SCRATCH)
        if block is not None:
            self.check_lookup(block.name, block.ids)

    def check_lookup(self, name, ids):
        expected = self.model.find(name, ids)
        found = self.directory.lookup(key_of((name, ids)), ids)
        if expected is None or expected.state != "ready":
            assert found is None
            self.model.counts.misses += 1
            return
        assert found is expected.handle
        self.check_content(expected)
        self.model.counts.hits += 1

    @rule(data=st.data(), other=texts)
    def collide(self, data, other):
        block = self.pick(data, lambda b: b.state == "ready")
        if block is not None and other != block.ids:
            assert self.directory.lookup(block.handle.key, other) is None
            self.model.counts.misses += 1
            self.model.counts.collisions += 1

    @rule(data=st.data())
    def pin(self, data):
        self.pin_one_of(data, lambda b: True)

    @rule(data=st.data())
    def pin_unread(self, data):
        self.pin_one_of(data, lambda b: not b.pins)

    def pin_one_of(self, data, condition):
        block = self.pick(data, condition)
        if block is not None:
            self.directory.pin(block.handle)
            if not block.pins:
                self.model.by_use.remove(block)
            block.pins += 1

    @rule(data=st.data())
    def unpin(self, data):
        block = self.pick(data, lambda b: b.pins > (b.state == "pending"))
        if block is not None:
            self.directory.unpin(block.handle)
            self.model.unpin(block)

    @rule(data=st.data())
    def adopt(self, data):
        block = self.pick(data, lambda b: b.state == "ready" and b.is_replica)
        if block is not None:
            self.directory.adopt(block.handle)
            block.is_replica = False

    @rule()
    def readers_leave(self):
        for block in list(self.model.blocks):
            for _ in range(block.pins - (block.state == "pending")):
                self.directory.unpin(block.handle)
                self.model.unpin(block)

    def drop(self, data):
        name = data.draw(names)
        doomed = [b for b in self.model.blocks if b.is_findable and b.name == name]
        assert self.directory.drop(*name) == bool(doomed)
        for block in doomed:
            if block.state == "pending":
                block.doomed = True
            else:
                self.model.retire(block)

    @rule(data=st.data(), more=st.integers(1, 5))
    def grow(self, data, more):
        block = self.pick(data, lambda b: b.state == "ready")
        if block is None:
            return
        if not block.pins:
            self.pin_one_of(data, lambda b: b is block)
        ids = block.ids + tuple(range(block.ids[-1] + 1, block.ids[-1] + 1 + more))
        num_pages = -(-len(ids) // PAGE_TOKENS)
        missing = num_pages - block.num_pages

        def call():
            return self.directory.grow(block.handle, key_of((block.name, ids)), ids, float(num_pages))

        if block.pins > 1:
            with pytest.raises(BlockBusyError):
                call()
        elif self.model.find(block.name, ids):
            with pytest.raises(ValueError, match="already"):
                call()
        elif not self.model.fits(missing):
            with pytest.raises(ResourceExhaustedError):
                call()
        else:
            self.model.make_room(missing)
            grown = Expected(block.name, ids, num_pages, call(), written=block.written)
            self.model.blocks.remove(block)
            self.model.blocks.append(grown)
            self.write(grown, grown.written, len(ids), GARBAGE)
            assert (block.handle.pages, block.handle.pins) == ((), 0)

    @rule(num_pages=st.integers(1, 2))
    def reserve_scratch(self, num_pages):
        if any(b.name[0] == SCRATCH for b in self.model.blocks):
            return  # one at a time, lest it crowd out the rest
        if not self.model.fits(num_pages):
            with pytest.raises(ResourceExhaustedError):
                self.directory.reserve_scratch(num_pages)
            return
        self.model.make_room(num_pages)
        handle = self.directory.reserve_scratch(num_pages)
        self.model.blocks.append(Expected((SCRATCH, ""), (), num_pages, handle, doomed=True))
        self.device |= {(page, slot): GARBAGE for page in handle.pages for slot in range(PAGE_TOKENS)}

    def release(self, data):
        block = self.pick(data, lambda b: b.name[0] == SCRATCH and b.state == "pending")
        if block is not None:
            self.directory.release(block.handle)
            block.state = "retired"
            self.model.unpin(block)

    # ---- what always holds

    @invariant()
    def books_add_up(self):
        self.directory.check_integrity()
        assert not self.model.evicted, "each was looked at"

    @invariant()
    def nobody_reads_what_another_wrote(self):
        for block in self.model.blocks:
            self.check_content(block)

    @invariant()
    def handles_are_as_expected(self):
        for block in self.model.blocks:
            handle = block.handle
            assert (handle.state, handle.pins, tuple(handle.token_ids)) == (block.state, block.pins, block.ids)
            assert handle.is_replica == block.is_replica
        for kind in ("item", "history"):
            for owner in OWNERS:
                ready = self.model.ready((kind, owner))
                assert self.directory.current(kind, owner) is (ready and ready.handle)

    @invariant()
    def stats_are_as_expected(self):
        blocks, counts, stats = self.model.blocks, self.model.counts, self.directory.stats()
        ready = [b for b in blocks if b.state == "ready"]
        assert set(self.directory.ready_blocks()) == {b.handle for b in ready}
        kinds = [b.name[0] for b in ready]
        assert stats.num_blocks == {kind: kinds.count(kind) for kind in kinds}
        assert stats.num_tokens == sum(len(b.ids) for b in ready)
        assert stats.pages_used == self.model.capacity - self.model.num_free
        assert stats.pages_pinned == sum(b.num_pages for b in blocks if b.pins)
        assert (stats.num_hits, stats.num_misses) == (counts.hits, counts.misses)
        assert (stats.num_collisions, stats.num_evictions) == (counts.collisions, counts.evictions)
        by_kind = self.directory.pages_used_by_kind()
        assert by_kind == {
            kind: sum(b.num_pages for b in blocks if b.name[0] == kind) for kind in {b.name[0] for b in blocks}
        }

    def teardown(self):
        """When every holder lets go, what is left is evictable, and the whole pool can be had."""
        if not hasattr(self, "model"):
            return
        self.directory.on_last_look(lambda handle: None)
        for block in list(self.model.blocks):
            for _ in range(block.pins - (block.state == "pending")):
                self.directory.unpin(block.handle)
            if block.state == "pending":
                self.directory.abort(block.handle)
        self.directory.reserve_scratch(self.model.capacity)
        self.directory.check_integrity()


TestDirectoryMachine = DirectoryMachine.TestCase
# Each step checks everything, and a machine draws much: neither is a fault of the strategies.
TestDirectoryMachine.settings = settings(
    max_examples=300,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

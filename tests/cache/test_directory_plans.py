"""Plans, new texts, deletions and evictions in any order, against dicts that forget nothing.

A plan sees the library as it was when it began and may compute blocks of that long after; a write reaches the library
in one step and the directory in others, in any order. Whatever happens, nothing that was deleted or overwritten is
found again. The hooks, the orders of correction and the integrity check are held against the same dicts.
"""

from dataclasses import dataclass, field

import pytest
from directory_kit import key_of, own
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from rcjax.cache import NULL_PAGE, BlockDirectory, BlockState, CachedBlock, GreedyDual, IntegrityError, PagePool

NAMES = [("item", own("a")), ("item", own("a", "tenant")), ("history", own("a"))]
names, texts = st.sampled_from(NAMES), st.integers(1, 4)
CAPACITY = 12  # pages of two tokens, where a text takes one or two


def content(name, text):
    """Key and tokens of a name's text."""
    return key_of((name, text)), range(100 * text, 101 * text)


@dataclass
class Plan:
    version: int
    library: dict  # text, version of the write that it came with: a plan may see one newer than itself


@dataclass
class Write:
    version: int
    name: tuple[str, str]
    text: int | None  # None deletes
    is_swapped: bool = False


@dataclass(eq=False)
class Reserved:
    handle: CachedBlock
    name: tuple[str, str]
    text: int
    version: int
    written: int  # version of the write that the text came with
    is_dead: bool = False


@dataclass
class Books:
    """What should be, as dicts by name."""

    ready: dict = field(default_factory=dict)  # text, version of the write that it came with
    newest: dict = field(default_factory=dict)  # version that was committed or dropped
    delivered: dict = field(default_factory=dict)  # newest write that reached the directory
    orders: dict = field(default_factory=dict)  # key, order


class PlansMachine(RuleBasedStateMachine):
    @initialize()
    def start(self):
        self.found = set()
        self.directory = BlockDirectory(
            PagePool(CAPACITY + 1, 2), GreedyDual(), on_commit=self.found.add, on_evict=self.found.remove
        )
        self.library = {}
        self.last_version = 0
        self.history = {name: [(0, None)] for name in NAMES}  # (version, text) of the writes
        self.plans, self.writes, self.reserved = [], [], []
        self.books = Books()
        for name in NAMES:
            self.write_whole(name, 1)

    # ---- the library: what plans see

    @rule()
    def begin_plan(self):
        self.plans.append(Plan(self.next_plan_version, dict(self.library)))

    @property
    def next_plan_version(self):
        """Smaller than that of every write that a plan would not see."""
        return min([self.last_version, *(write.version - 1 for write in self.writes if not write.is_swapped)])

    @rule(name=names, text=st.none() | texts)
    def begin_write(self, name, text):
        self.begin(name, text)

    def begin(self, name, text):
        if any(write.name == name for write in self.writes):
            return None  # one at a time of each name
        self.last_version += 1
        write = Write(self.last_version, name, text)
        self.writes.append(write)
        self.history[name].append((write.version, text))
        return write, None if text is None else self.reserve(name, text, write.version, write.version)

    @rule(name=names, text=st.none() | texts)
    def write_at_once(self, name, text):
        """The usual course in one step, with a plan from before that is old then."""
        if len(self.plans) < 3:
            self.begin_plan()
        self.write_whole(name, text)

    def write_whole(self, name, text):
        begun = self.begin(name, text)
        if begun is not None:
            write, reserved = begun
            if reserved is not None:
                self.finish(reserved)
            self.swap_one(write)
            if text is None:
                self.deliver(write)

    @rule(data=st.data())
    def swap(self, data):
        waiting = [write for write in self.writes if not write.is_swapped]
        if not waiting:
            return
        self.swap_one(data.draw(st.sampled_from(waiting)))

    def swap_one(self, write):
        write.is_swapped = True
        if write.text is None:
            self.library.pop(write.name, None)
        else:
            self.library[write.name] = write.text, write.version
            self.writes.remove(write)

    @rule(data=st.data())
    def drop(self, data):
        """A deletion reaches the directory after the library."""
        waiting = [write for write in self.writes if write.is_swapped]
        if not waiting:
            return
        self.deliver(data.draw(st.sampled_from(waiting)))

    def deliver(self, write):
        self.writes.remove(write)
        name, books = write.name, self.books
        alive = [r for r in self.reserved if r.name == name and not r.is_dead and r.version <= write.version]
        is_newest = write.version >= books.newest.get(name, 0)
        expected = bool(alive) or (is_newest and name in books.ready)
        assert self.directory.drop(*name, write.version) == expected
        for reserved in alive:
            reserved.is_dead = True
        if is_newest:
            books.ready.pop(name, None)
            books.orders.pop(name, None)
            books.newest[name] = books.delivered[name] = write.version

    # ---- the directory: what plans and writes do with blocks

    @rule(data=st.data(), at_once=st.booleans())
    def plan_builds(self, data, at_once):
        choice = [
            (plan, name)
            for plan in self.plans
            for name, (text, _) in plan.library.items()
            if self.can_reserve(name, text)
        ]
        if choice:
            plan, name = data.draw(st.sampled_from(choice))
            text, written = plan.library[name]
            reserved = self.reserve(name, text, plan.version, written)
            if at_once:
                self.finish(reserved)

    def can_reserve(self, name, text):
        is_pending = any((r.name, r.text) == (name, text) and not r.is_dead for r in self.reserved)
        return not is_pending and self.books.ready.get(name, (None, 0))[0] != text and len(self.reserved) < 4

    def reserve(self, name, text, version, written):
        if not self.can_reserve(name, text):
            return None
        key, ids = content(name, text)
        handle = self.directory.reserve(key, *name, ids, float(text), version)
        self.note_evictions()
        is_dead = version < self.books.newest.get(name, 0)
        reserved = Reserved(handle, name, text, version, written, is_dead)
        self.reserved.append(reserved)
        return reserved

    @rule(data=st.data())
    def commit(self, data):
        if self.reserved:
            self.finish(data.draw(st.sampled_from(self.reserved)))

    def finish(self, one):
        for other in self.reserved[: self.reserved.index(one)]:
            if not one.is_dead and other.name == one.name and other.version <= one.version:
                other.is_dead = True
        for other in self.reserved:
            if not one.is_dead and other.name == one.name and other.version < one.version:
                other.is_dead = True
        self.reserved.remove(one)
        self.directory.commit(one.handle)
        self.directory.unpin(one.handle)
        assert (one.handle.state is BlockState.RETIRED) == one.is_dead
        if not one.is_dead:
            key, _ = content(one.name, one.text)
            books = self.books
            books.ready[one.name] = (one.text, one.written)
            books.newest[one.name] = max(one.version, books.newest.get(one.name, 0))
            if one.version == one.written:
                books.delivered[one.name] = max(one.version, books.delivered.get(one.name, 0))
            if books.orders.get(one.name, (key,))[0] != key:
                del books.orders[one.name]

    @rule(data=st.data(), how=st.sampled_from(["abort", "evict", "end a plan"]))
    def give_up(self, data, how):
        """One rule for three, so that more is built than given up."""
        if how == "abort" and self.reserved:
            one = data.draw(st.sampled_from(self.reserved))
            self.reserved.remove(one)
            self.directory.abort(one.handle)
        elif how == "end a plan" and self.plans:
            self.plans.remove(data.draw(st.sampled_from(self.plans)))
        elif how == "evict" and self.directory.num_available_pages:
            self.directory.release(self.directory.reserve_scratch(self.directory.num_available_pages))
            self.note_evictions()
            assert not self.books.ready

    def note_evictions(self):
        for name in NAMES:
            if self.directory.current(*name) is None:
                self.books.ready.pop(name, None)

    @rule(name=names, data=st.data())
    def choose_order(self, name, data):
        block = self.directory.current(*name)
        if block is not None:
            order = data.draw(st.permutations(range(block.num_tokens)))
            self.directory.set_order(block, order)
            self.books.orders[name] = (block.key, order)

    # ---- what always holds

    @invariant()
    def nothing_old_is_found(self):
        for name in NAMES:
            block = self.directory.current(*name)
            assert (block is not None) == (name in self.books.ready)
            if block is None:
                continue
            text, written = self.books.ready[name]
            assert written >= self.books.delivered.get(name, 0), "a newer write has reached the directory"
            assert (written, text) in self.history[name]
            key, ids = content(name, text)
            assert self.directory.lookup(key, ids) is block

    @invariant()
    def hooks_told_what_is_found(self):
        assert self.found == {content(name, text)[0] for name, (text, _) in self.books.ready.items()}

    @invariant()
    def orders_are_kept(self):
        stored = {(o.kind, o.owner): (key, o.order.tolist()) for key, o in self.directory.orders().items()}
        assert stored == self.books.orders
        for name in self.books.ready:
            block = self.directory.current(*name)
            key, order = self.books.orders.get(name, (block.key, None))
            assert key == block.key
            assert (None if block.order is None else block.order.tolist()) == order

    @invariant()
    def no_false_alarm(self):
        self.directory.check_integrity_within(0.0, lambda: 0.0)

    @invariant()
    def what_is_known_stays_bounded(self):
        alive = [one.version for one in (*self.plans, *self.writes, *self.reserved)]
        self.directory.forget_versions(min([self.next_plan_version, *alive]))
        if not alive:
            assert not len(self.directory._versions)

    def teardown(self):
        if not hasattr(self, "books"):
            return
        self.directory.check_integrity()
        if self.books.ready:
            block = self.directory.current(*next(iter(self.books.ready)))
            self.directory._ready.columns.first_page[block.slot] = NULL_PAGE
            with pytest.raises(IntegrityError):
                self.check_two_rounds()  # the first may be past the damage

    def check_two_rounds(self):
        for _ in range(2):
            while not self.directory.check_integrity_within(0.0, lambda: 0.0):
                pass


TestPlansMachine = PlansMachine.TestCase
TestPlansMachine.settings = settings(
    max_examples=100,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

"""What a directory should hold, as lists that are searched from end to end."""

from dataclasses import dataclass, field

from rcjax.cache import CachedBlock
from rcjax.cache.versions import Name


@dataclass(eq=False)
class Expected:
    """What the model knows of a block that has pages."""

    name: Name
    ids: tuple[int, ...]
    num_pages: int
    handle: CachedBlock
    state: str = "pending"
    doomed: bool = False
    pins: int = 1
    written: int = 0  # tokens whose KV must be intact
    is_replica: bool = False

    @property
    def is_findable(self):
        return self.state == "ready" or (self.state == "pending" and not self.doomed)


@dataclass
class Counts:
    hits: int = 0
    misses: int = 0
    collisions: int = 0
    evictions: int = 0


@dataclass
class Model:
    capacity: int
    max_replica_pages: int = 0
    blocks: list[Expected] = field(default_factory=list)  # all that have pages, in order of reservation
    by_use: list[Expected] = field(default_factory=list)  # the evictable ones, least recently used first
    evicted: list[Expected] = field(default_factory=list)  # by the last `make_room`, in order
    counts: Counts = field(default_factory=Counts)

    def find(self, name, ids):
        return next((b for b in self.blocks if b.is_findable and (b.name, b.ids) == (name, ids)), None)

    def ready(self, name):
        return next((b for b in self.blocks if b.state == "ready" and b.name == name), None)

    @property
    def num_free(self):
        return self.capacity - sum(b.num_pages for b in self.blocks)

    def fits(self, num_pages):
        return num_pages <= self.num_free + sum(b.num_pages for b in self.by_use)

    def make_room(self, num_pages):
        while self.num_free < num_pages:
            block = next((b for b in self.by_use if b.is_replica), self.by_use[0])
            self.evicted.append(block)
            self.evict(block)

    def evict(self, block):
        self.by_use.remove(block)
        self.blocks.remove(block)
        self.counts.evictions += 1

    def retire(self, block):
        block.state = "retired"
        if not block.pins:
            self.blocks.remove(block)
            if block in self.by_use:
                self.by_use.remove(block)

    def unpin(self, block):
        block.pins -= 1
        if not block.pins and block.state == "ready":
            self.by_use.append(block)
            while sum(b.num_pages for b in self.by_use if b.is_replica) > self.max_replica_pages:
                self.evict(next(b for b in self.by_use if b.is_replica))
        elif not block.pins:
            self.blocks.remove(block)

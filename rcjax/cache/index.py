"""The block index: where a block stands in its life, and by which key or name it can be found."""

from collections import Counter
from collections.abc import Iterable, Iterator

from rcjax.cache.blocks import SCRATCH, BlockState, CachedBlock
from rcjax.cache.errors import IntegrityError


class BlockIndex:
    """The blocks of a `BlockDirectory` by key, by (kind, owner) and by state; it knows nothing of pages.

    Each method moves a block from one state to the next and keeps the maps and counts in step.
    """

    def __init__(self) -> None:
        self._by_key: dict[bytes, CachedBlock] = {}  # ready, and pending if not superseded
        self._current: dict[tuple[str, str], CachedBlock] = {}  # ready, by kind and owner
        self._pending: dict[tuple[str, str], list[CachedBlock]] = {}  # all that are pending, oldest first
        self._retired: set[CachedBlock] = set()  # unfindable, but still pinned
        self.num_ready_by_kind: Counter[str] = Counter()
        self.num_ready_tokens = 0

    def find(self, key: bytes) -> CachedBlock | None:
        """The ready or pending block of that key."""
        return self._by_key.get(key)

    def current(self, kind: str, owner: str) -> CachedBlock | None:
        """The ready block of that name."""
        return self._current.get((kind, owner))

    def ready_blocks(self) -> Iterator[CachedBlock]:
        return iter(self._current.values())

    def all_blocks(self) -> Iterator[CachedBlock]:
        """Every block that holds pages."""
        yield from self._current.values()
        for blocks in self._pending.values():
            yield from blocks
        yield from self._retired

    def add_pending(self, block: CachedBlock) -> None:
        if not block.superseded:
            self._by_key[block.key] = block
        self._pending.setdefault((block.kind, block.owner), []).append(block)

    def supersede(self, blocks: Iterable[CachedBlock]) -> None:
        """Makes pending blocks unfindable, for good."""
        for block in blocks:
            block.superseded = True
            del self._by_key[block.key]

    def rivals(self, kind: str, owner: str, before: CachedBlock | None = None) -> list[CachedBlock]:
        """Pending blocks of that name that could still become ready; only those reserved before `before`."""
        pending = self._pending.get((kind, owner), [])
        end = len(pending) if before is None else pending.index(before)
        return [block for block in pending[:end] if not block.superseded]

    def pending_to_ready(self, block: CachedBlock) -> None:
        """The name must be free: retire the former ready block first."""
        self._remove_pending(block)
        block.state = BlockState.READY
        self._current[block.kind, block.owner] = block
        self.num_ready_by_kind[block.kind] += 1
        self.num_ready_tokens += block.num_tokens

    def pending_to_retired(self, block: CachedBlock) -> None:
        self._remove_pending(block)
        if not block.superseded:
            del self._by_key[block.key]
        block.state = BlockState.RETIRED
        self._retired.add(block)

    def ready_to_retired(self, block: CachedBlock) -> None:
        del self._by_key[block.key]
        del self._current[block.kind, block.owner]
        self.num_ready_by_kind[block.kind] -= 1
        self.num_ready_tokens -= block.num_tokens
        block.state = BlockState.RETIRED
        self._retired.add(block)

    def forget(self, block: CachedBlock) -> None:
        """Lets go of a retired block, whose pages have been freed or moved."""
        self._retired.remove(block)

    def check_integrity(self) -> None:
        """Raises `IntegrityError` where maps, states and counts do not agree; O(blocks)."""
        findable = {}
        for (kind, owner), block in self._current.items():
            if (block.kind, block.owner, block.state) != (kind, owner, BlockState.READY):
                raise IntegrityError(f"listed as ready {kind} of {owner!r}: {block}")
            findable[block.key] = block
        for (kind, owner), blocks in self._pending.items():
            for block in blocks:
                if (block.kind, block.owner, block.state) != (kind, owner, BlockState.PENDING):
                    raise IntegrityError(f"listed as pending {kind} of {owner!r}: {block}")
                if kind == SCRATCH and not block.superseded:
                    raise IntegrityError(f"a scratch block can be found: {block}")
                if not block.superseded:
                    findable[block.key] = block
        if findable != self._by_key:
            wrong = [key.hex() for key in findable.keys() ^ self._by_key.keys()]
            raise IntegrityError(f"keys and blocks do not match: {wrong[:4]}")
        for block in self._retired:
            if block.state is not BlockState.RETIRED:
                raise IntegrityError(f"listed as retired: {block}")
        if +self.num_ready_by_kind != Counter(block.kind for block in self.ready_blocks()):
            raise IntegrityError(f"blocks are miscounted: {self.num_ready_by_kind}")
        if self.num_ready_tokens != sum(block.num_tokens for block in self.ready_blocks()):
            raise IntegrityError(f"tokens are miscounted: {self.num_ready_tokens}")

    def _remove_pending(self, block: CachedBlock) -> None:
        name = (block.kind, block.owner)
        self._pending[name].remove(block)
        if not self._pending[name]:
            del self._pending[name]

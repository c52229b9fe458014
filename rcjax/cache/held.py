"""Blocks that only those who hold them know: pending ones, and retired ones that are still read."""

from collections.abc import Iterator

from rcjax.cache.blocks import NO_SLOT, PENDING, RETIRED, SCRATCH, CachedBlock
from rcjax.cache.errors import IntegrityError
from rcjax.cache.pages import PagePool
from rcjax.cache.versions import KnownVersions, Name


class HeldBlocks:
    """Pending and retired blocks; each is pinned. Moves them from one to the other and knows nothing of pages."""

    def __init__(self, versions: KnownVersions) -> None:
        self._versions = versions
        self._by_key: dict[bytes, CachedBlock] = {}  # pending ones that can become ready
        self._pending: dict[Name, list[CachedBlock]] = {}  # all that are pending, oldest first
        self._retired: set[CachedBlock] = set()

    def __iter__(self) -> Iterator[CachedBlock]:
        for blocks in self._pending.values():
            yield from blocks
        yield from self._retired

    def find(self, key: bytes) -> CachedBlock | None:
        """The pending block that will be found by that key."""
        return self._by_key.get(key)

    def add_pending(self, block: CachedBlock) -> CachedBlock:
        """Takes in a new block and returns it; one whose version is overtaken already will never be ready."""
        name = (block.kind, block.owner)
        if block.version < self._versions.newest(name):
            block.superseded = True
        if not block.superseded:
            self._by_key[block.key] = block
        self._pending.setdefault(name, []).append(block)
        return block

    def supersede(self, name: Name, version: int, before: CachedBlock | None = None) -> bool:
        """Keeps pending blocks of a name from ever becoming ready; whether there were any.

        These are the ones of smaller versions, and of the same version: all, or only those reserved before `before`.
        """
        overtaken = []
        is_earlier = True
        for block in self._pending.get(name, ()):
            is_earlier = is_earlier and block is not before
            if not block.superseded and (block.version < version or (block.version == version and is_earlier)):
                overtaken.append(block)
        for block in overtaken:
            block.superseded = True
            del self._by_key[block.key]
        return bool(overtaken)

    def require_pending(self, block: CachedBlock) -> None:
        if block.state is not PENDING:
            raise ValueError(f"{block.kind} block of {block.owner} is not pending but {block.state}")

    def remove_pending(self, block: CachedBlock) -> None:
        """Lets go of a pending block, which is about to be ready or retired."""
        name = (block.kind, block.owner)
        self._pending[name].remove(block)
        if not self._pending[name]:
            del self._pending[name]
        if not block.superseded:
            del self._by_key[block.key]

    def pending_to_retired(self, block: CachedBlock) -> None:
        self.remove_pending(block)
        block.state = RETIRED
        self._retired.add(block)

    def add_retired(self, block: CachedBlock) -> None:
        """Takes in a block that was ready and is still read."""
        self._retired.add(block)

    def forget(self, block: CachedBlock) -> None:
        """Lets go of a retired block, whose pages are to be freed."""
        self._retired.remove(block)

    def check_integrity(self, pool: PagePool) -> None:
        """Raises `IntegrityError` where states, keys, pins and pages do not agree; O(held blocks)."""
        findable = {}
        pages: set[int] = set()
        for (kind, owner), blocks in self._pending.items():
            for block in blocks:
                if (block.kind, block.owner, block.state) != (kind, owner, PENDING):
                    raise IntegrityError(f"listed as pending {kind} of {owner}: {block}")
                if kind == SCRATCH and not block.superseded:
                    raise IntegrityError(f"a scratch block can be found: {block}")
                if not block.superseded:
                    findable[block.key] = block
        if findable != self._by_key:
            wrong = [key.hex() for key in findable.keys() ^ self._by_key.keys()]
            raise IntegrityError(f"keys and pending blocks do not match: {wrong[:4]}")
        for block in self._retired:
            if block.state is not RETIRED:
                raise IntegrityError(f"listed as retired: {block}")
        for block in self:
            if block.pins < 1 or block.slot != NO_SLOT:
                raise IntegrityError(f"a {block.state} block must have a pin and no slot: {block}")
            if block.kind != SCRATCH and len(block.pages) != pool.pages_for(block.num_tokens):
                raise IntegrityError(f"not the pages of {block.num_tokens} tokens: {block}")
            if block.pages and block.pages != pool.checked_run(block.pages[0], len(block.pages)):
                raise IntegrityError(f"pages are not linked as they are listed: {block}")
            if pages & set(block.pages):
                raise IntegrityError(f"pages {pages & set(block.pages)} are in two blocks, one of them {block}")
            pages.update(block.pages)

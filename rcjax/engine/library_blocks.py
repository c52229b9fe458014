"""Blocks and keys of what a library holds, and of what comes inline."""

import hashlib

from rcjax.cache import BlockKeys
from rcjax.engine.library import Library, StoredItem, StoredUser
from rcjax.engine.plan import PlannedBlock
from rcjax.errors import NotFoundError
from rcjax.prompt import BlockKind, PromptBuilder
from rcjax.prompt.builder import TokenIds


class LibraryBlocks:
    """Turns items and histories into blocks as they are cached. Any thread may call it.

    A block's owner is the id. Content that came inline and is not what the library holds gets an owner that is nobody's
    id, so that it never displaces a block of the library, and nothing of it is kept. The histories that come inline for
    one user have one owner: the last of them stays cached, and goes when the user is deleted.
    """

    def __init__(self, builder: PromptBuilder, library: Library, keys: BlockKeys):
        self._builder = builder
        self._library = library
        self._keys = keys

    def item(self, stored: StoredItem) -> PlannedBlock:
        if (block := stored.block) is None:
            item = stored.content
            block = self.make(BlockKind.ITEM, self._builder.item_ids(item), item.item_id)
            self._library.remember(stored, block)
        return block

    def history(self, user_id: str, stored: StoredUser) -> PlannedBlock:
        if (block := stored.block) is None:
            block = self.make(BlockKind.HISTORY, self._builder.history_ids(stored.content), user_id)
            self._library.remember(stored, block)
        return block

    def make(self, kind: BlockKind, token_ids: TokenIds, owner: str) -> PlannedBlock:
        return PlannedBlock(self._builder.block(kind, token_ids, owner), self._keys.key(kind, owner, token_ids))

    def make_inline(self, kind: BlockKind, token_ids: TokenIds, name: str) -> PlannedBlock:
        """The block of content that came inline, `name` being its item's or user's id, if it has one."""
        if kind is BlockKind.HISTORY and name:
            return self.make(kind, token_ids, inline_owner(name))
        return self.make(kind, token_ids, inline_owner(name, hashlib.sha256(token_ids.tobytes()).hexdigest()))


def inline_owner(name: str, digest: str = "") -> str:
    """The owner of what came inline; ids hold no NUL, so it is nobody's id."""
    return f"\0{name}\0{digest}"


def unknown_user(user_id: str) -> NotFoundError:
    return NotFoundError(f"user {user_id!r} is not known; put them or send a history", field="user_id")

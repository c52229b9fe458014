"""Blocks and keys of what a library holds, and of what comes inline."""

import hashlib

from rcjax.cache import BlockKeys
from rcjax.engine.library import Library, StoredItem, StoredUser
from rcjax.engine.plan import PlannedBlock
from rcjax.errors import NotFoundError
from rcjax.prompt import BlockKind, Owner, PromptBuilder
from rcjax.prompt.builder import TokenIds

ANY_HISTORY = "any"  # of all histories that come inline for one user; others have a digest there


class LibraryBlocks:
    """Turns items and histories into blocks as they are cached. Any thread may call it.

    Content that came inline and is not what the library holds has another owner than the library's, so that it never
    displaces a block of the library, and nothing of it is kept. The histories that come inline for one user have one
    owner: the last of them stays cached, and goes when the user is deleted.
    """

    def __init__(self, builder: PromptBuilder, library: Library, keys: BlockKeys):
        self._builder = builder
        self._library = library
        self._keys = keys

    def item(self, owner: Owner, stored: StoredItem) -> PlannedBlock:
        if (block := stored.block) is None:
            block = self.make(BlockKind.ITEM, self._builder.item_ids(stored.content), owner)
            self._library.remember(stored, block)
        return block

    def history(self, owner: Owner, stored: StoredUser) -> PlannedBlock:
        if (block := stored.block) is None:
            block = self.make(BlockKind.HISTORY, self._builder.history_ids(stored.content), owner)
            self._library.remember(stored, block)
        return block

    def make(self, kind: BlockKind, token_ids: TokenIds, owner: Owner) -> PlannedBlock:
        return PlannedBlock(self._builder.block(kind, token_ids, owner), self._keys.key(kind, owner, token_ids))

    def make_inline(self, kind: BlockKind, token_ids: TokenIds, owner: Owner) -> PlannedBlock:
        """The block of content that came inline for an item or user of the library, whose id may be empty."""
        if kind is BlockKind.HISTORY and owner.id:
            return self.make(kind, token_ids, owner._replace(inline=ANY_HISTORY))
        return self.make(kind, token_ids, owner._replace(inline=hashlib.sha256(token_ids.tobytes()).hexdigest()))


def unknown_user(user_id: str) -> NotFoundError:
    return NotFoundError(f"user {user_id!r} is not known; put them or send a history", field="user_id")

"""Plans writes: what to compute before one takes effect, what changes then, and what to drop."""

from collections.abc import Sequence

from rcjax.catalog.types import Event, Item, User
from rcjax.engine.library import Library
from rcjax.engine.library_blocks import ANY_HISTORY, LibraryBlocks, unknown_user
from rcjax.engine.plan import Change, PlannedBlock, Stored, WritePlan
from rcjax.engine.validation import validate_write
from rcjax.errors import InvalidRequestError
from rcjax.prompt import Block, BlockKind, FittedHistory, FittingTexts, Owner
from rcjax.request import AppendEvents, DeleteItems, DeleteUser, PutItems, PutUser, ServiceLimits, Write


class WritePlanner:
    """Plans writes over one library. Any thread may call it."""

    def __init__(
        self,
        library: Library,
        blocks: LibraryBlocks,
        texts: FittingTexts,
        limits: ServiceLimits,
        *,
        instruction_len: int,
        page_tokens: int,
        max_block_pages: int,
    ):
        self._library = library
        self._blocks = blocks
        self._texts = texts
        self._limits = limits
        self._page_tokens = page_tokens
        self._max_pages = max_block_pages - -(-instruction_len // page_tokens)

    def plan(self, write: Write) -> WritePlan:
        """See `Planner.plan_write`."""
        validate_write(write, self._limits)
        tenant = write.tenant
        match write:
            case PutItems(items):
                return self._plan_items(write, items)
            case DeleteItems(item_ids):
                return self._plan_deletion(write, BlockKind.ITEM, [Owner(tenant, item_id) for item_id in item_ids])
            case PutUser(User(user_id, events)):
                fitted = self._texts.history(events, "user.events")
                return self._plan_history(write, Owner(tenant, user_id), fitted, None)
            case AppendEvents(user_id, events):
                return self._plan_appending(write, Owner(tenant, user_id), events)
            case DeleteUser(user_id):
                inline = Owner(tenant, user_id, ANY_HISTORY)
                return self._plan_deletion(write, BlockKind.HISTORY, [Owner(tenant, user_id)], [inline])

    def _plan_items(self, write: Write, items: Sequence[Item]) -> WritePlan:
        blocks = []
        for i, item in enumerate(items):
            owner = Owner(write.tenant, item.item_id)
            stored = self._library.item(owner.tenant, owner.id)
            if stored is not None and stored.content == item:
                blocks.append(self._blocks.item(owner, stored))
            else:
                ids = self._texts.item_ids(item, f"items[{i}]")
                blocks.append(self._blocks.make(BlockKind.ITEM, ids, owner))
            self._check_block(blocks[-1].block, f"items[{i}]")
        version = self._library.versions.begin_write()
        changes = [
            Change(BlockKind.ITEM, block.block.owner, Stored(item, version, block))
            for item, block in zip(items, blocks, strict=True)
        ]
        return WritePlan(write, version, tuple(blocks), None, (), tuple(changes))

    def _plan_appending(self, write: Write, owner: Owner, events: tuple[Event, ...]) -> WritePlan:
        stored = self._library.user(owner.tenant, owner.id)
        if stored is None:
            raise unknown_user(owner.id)
        former = self._blocks.history(owner, stored)
        known, at = [], len(former.block) - sum(stored.event_lens)
        for length in stored.event_lens:
            known.append(former.block.token_ids[at : at + length])
            at += length
        fitted = self._texts.history((*stored.content, *events), "events", known)
        is_longer = len(stored.content) > 0 and fitted.events[: len(stored.content)] == stored.content
        return self._plan_history(write, owner, fitted, former if is_longer and len(former.block) else None)

    def _plan_history(
        self, write: Write, owner: Owner, fitted: FittedHistory, grow_from: PlannedBlock | None
    ) -> WritePlan:
        block = self._blocks.make(BlockKind.HISTORY, fitted.token_ids, owner)
        self._check_block(block.block, "user.events" if isinstance(write, PutUser) else "events")
        version = self._library.versions.begin_write()
        name = (BlockKind.HISTORY, owner)
        change = Change(*name, Stored(fitted.events, version, block, fitted.event_lens))
        if not len(block.block):  # no history is no block, and what there was is to go
            return WritePlan(write, version, (), None, (name,), (change,))
        return WritePlan(write, version, (block,), grow_from, (), (change,))

    def _plan_deletion(
        self, write: Write, kind: BlockKind, owners: Sequence[Owner], inline: Sequence[Owner] = ()
    ) -> WritePlan:
        """`inline` are owners of what came with requests, and is not in the library."""
        version = self._library.versions.begin_write()
        names = tuple((kind, owner) for owner in (*owners, *inline))
        return WritePlan(write, version, (), None, names, tuple(Change(kind, owner, None) for owner in owners))

    def _check_block(self, block: Block, field: str) -> None:
        num_pages = -(-len(block) // self._page_tokens)
        if num_pages > self._max_pages:
            raise InvalidRequestError(
                f"{field} makes {len(block)} tokens, which need {num_pages} pages of the cache, of which there are "
                f"{self._max_pages} besides the instruction's; shorten the text or configure a larger cache.pool_bytes",
                field=field,
            )

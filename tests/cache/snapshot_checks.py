"""What a snapshot's tests put into an engine, and how they compare what comes back."""

import json

from tiny_engine import PAGE_TOKENS, event, item

from rcjax.catalog.types import User
from rcjax.prompt import BlockKind

ITEMS = [item(i, num_words=1 + i % 6) for i in range(8)]
IDS = [one.item_id for one in ITEMS]
USERS = [User("u", tuple(event(i) for i in range(5))), User("v", (event(7),))]
NUM_BLOCKS = len(ITEMS) + len(USERS)


def know(engine):
    """Tells the engine the items and users, which builds the blocks that its cache does not have."""
    engine.put_items(ITEMS)
    for user in USERS:
        engine.put_user(user)


def named_blocks(engine):
    """The blocks by kind and owner, without the instruction, in order."""
    blocks = engine.cache.directory.ready_blocks()
    return {(str(block.kind), block.owner): block for block in blocks if block.kind != BlockKind.INSTRUCTION}


def kv_bytes(engine, block):
    """The bytes of the block's KV, without what its last page holds after it."""
    flat = [values.reshape(values.shape[0], -1, *values.shape[3:]) for values in engine.slice.read_pages(block.pages)]
    return [values[:, : block.num_tokens].tobytes() for values in flat]


def assert_blocks_are_of(engine, source):
    """Each block is one of `source`'s, bit for bit, with nothing but zeros after it."""
    theirs = named_blocks(source)
    for name, block in named_blocks(engine).items():
        assert block.key == theirs[name].key
        assert block.token_ids.tolist() == theirs[name].token_ids.tolist()
        assert block.cost == theirs[name].cost
        assert kv_bytes(engine, block) == kv_bytes(source, theirs[name])
        for values in engine.slice.read_pages(block.pages[-1:]):
            assert not values[:, 0, block.num_tokens - (len(block.pages) - 1) * PAGE_TOKENS :].any()


def index_of(folder):
    return json.loads((folder / "index.json").read_text(encoding="utf-8"))


def num_pages(engine, names):
    return sum(len(named_blocks(engine)[name].pages) for name in names)

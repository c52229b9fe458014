"""Orders of correction in a snapshot: as records, as they may be of content that is not cached."""

from collections.abc import Sequence
from functools import partial

from rcjax.cache.directory import BlockDirectory
from rcjax.cache.keys import as_token_ids
from rcjax.cache.snapshot.pool import PIECE_SLOTS, Pool
from rcjax.cache.snapshot.records import Record
from rcjax.prompt import Owner


def order_records(directory: BlockDirectory) -> dict[str, Record]:
    """The orders that a directory has, by key in hex; for the thread that owns it."""
    return {
        key.hex(): {"key": key.hex(), "kind": named.kind, "owner": list(named.owner), "order": named.order.tolist()}
        for key, named in directory.orders().items()
        if not named.owner.is_inline
    }


def owner_of(record: Record) -> Owner:
    """The item or user that an order is of."""
    return Owner(*record["owner"])


def put_orders(pool: Pool, records: Sequence[Record]) -> None:
    """Gives these orders to a pool, where its items or users have none."""

    def put(some: Sequence[Record]) -> None:
        for record in some:
            key = bytes.fromhex(record["key"])
            pool.directory.put_order(key, record["kind"], owner_of(record), as_token_ids(record["order"]))

    for at in range(0, len(records), PIECE_SLOTS):
        pool.run(partial(put, records[at : at + PIECE_SLOTS]))

"""Records of a snapshot that are no KV: items, users and orders of correction, as JSON lines in values of their own.

    library/<digest>   JSON lines, compressed by zstd, and named by their SHA-256

A record stands in the part that its id's hash says. So a part in which nothing changed has the same name, is not
written again, and stays while any snapshot names it.
"""

import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa

from rcjax.cache.snapshot.manifest import RecordsPart
from rcjax.cache.snapshot.segments import digest_of
from rcjax.cache.snapshot.store import SnapshotStore

PREFIX = "library/"
PART_RECORDS = 512  # of a part, about

Record = Mapping[str, Any]


def write_records(
    store: SnapshotStore,
    records: Mapping[str, Callable[[], Record]],
    known: set[str],
    rest: Callable[[], None],
    on_write: Callable[[str], None],
) -> list[RecordsPart]:
    """Writes records by id, but for the parts whose digests are in `known`, which gets those of what is written.

    A record is made when it is needed. `rest` is called after each part, `on_write` before each write with the name.
    """
    num_parts = 1
    while num_parts * PART_RECORDS < len(records):
        num_parts *= 2
    ids: list[list[str]] = [[] for _ in range(num_parts)]
    for name in records:
        ids[zlib.crc32(name.encode(errors="surrogatepass")) % num_parts].append(name)
    parts = []
    for of_part in filter(None, ids):
        lines = "".join(f"{json.dumps(records[name]())}\n" for name in sorted(of_part)).encode()
        value = pa.compress(lines, codec="zstd", asbytes=True)
        digest = digest_of(value)
        if digest not in known:
            on_write(f"{PREFIX}{digest}")
            store.write(f"{PREFIX}{digest}", value)
            known.add(digest)
        parts.append(RecordsPart(digest=digest, num_records=len(of_part), num_bytes=len(lines)))
        rest()
    return parts


def read_records(store: SnapshotStore, parts: Iterable[RecordsPart]) -> Iterator[list[Record] | RecordsPart]:
    """The records of each part, or the part itself where it is damaged or missing."""
    for part in parts:
        value = store.read(f"{PREFIX}{part.digest}")
        if value is None or digest_of(value) != part.digest:
            yield part
            continue
        lines = pa.decompress(value, decompressed_size=part.num_bytes, codec="zstd", asbytes=True)
        yield [json.loads(line) for line in lines.splitlines()]

"""A process that takes snapshots of a cache in host memory until it is killed.

Each puts an item whose name is the snapshot's number, and tells when one is complete.
"""

import sys

from snapshot_kit import Cache, own, save, stocked

from rcjax.cache.snapshot import Content, saving


def content(num_items: int) -> Content:
    return Content(items=lambda: {f"{number:04d}": lambda number=number: {"n": number} for number in range(num_items)})


def main(folder: str) -> None:
    saving.SEGMENT_BYTES = 200
    cache: Cache = stocked(num_pages=20_000)
    number = 0
    while True:
        number += 1
        cache.put("item", f"n{number}")
        if number % 3 == 0:
            cache.directory.drop("item", own(f"n{number - 2}"), version=number)
        report = save(cache, folder, content=content(number), keep=2)
        print(report.number, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])

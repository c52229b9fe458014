"""What the block directory costs: memory of a block, time of a lookup, and of a put that evicts another block.

    python -m benchmarks.directory_cost [--blocks 1000000]

Each measurement runs in a process of its own, whose memory is what the system says it holds. Owners, keys and tokens
are distinct; nothing of a block is kept beside the directory. Lookups are of blocks at random places, most of them in
no processor cache, and include the making of a handle, whose pages are then asked for in `use`.
"""

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.claims import Claim
from rcjax.cache import BlockDirectory, GreedyDual, PagePool
from rcjax.prompt import Owner

NUM_TOKENS, PAGE_TOKENS = 100, 16
VOCABULARY, LARGE_VOCABULARY = 49_152, 151_936  # of SmolLM2, and of Qwen2.5
NUM_TIMED, BATCH = 40_000, 200
_PAGES = -(-NUM_TOKENS // PAGE_TOKENS)


def measure_directory(num_blocks: int = 1_000_000) -> tuple[dict[str, Any], list[Claim]]:
    """Figures by vocabulary, and the bars that those of the smaller one are held against."""
    figures = {name: _in_a_process(num_blocks, ids) for name, ids in _ranges().items()}
    small = figures["ids below 65,536"]
    claims = [
        Claim("directory: bytes a block", small["bytes_per_block"], 600, at_least=False),
        Claim("directory: lookup, us", small["lookup_us"]["median"], 4, at_least=False),
        Claim("directory: put that evicts, us", small["put_us"]["median"], 25, at_least=False),
    ]
    return {"num_blocks": num_blocks, "num_tokens": NUM_TOKENS, "page_tokens": PAGE_TOKENS, **figures}, claims


def _ranges() -> dict[str, tuple[int, int]]:
    return {"ids below 65,536": (0, VOCABULARY), "ids of 65,536 and more": (2**16, LARGE_VOCABULARY)}


def _in_a_process(num_blocks: int, ids: tuple[int, int]) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.directory_cost", "--blocks", str(num_blocks), "--ids", *map(str, ids)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    return json.loads(done.stdout)


def _measure(num_blocks: int, low: int, high: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)

    def block(number: int) -> tuple[bytes, str, np.ndarray]:
        ids = np.random.Generator(np.random.PCG64(number)).integers(low, high, NUM_TOKENS, dtype=np.int32)
        return hashlib.sha256(number.to_bytes(8, "little")).digest(), f"item-{number:09d}", ids

    block(0)
    before = _resident_bytes()
    directory = BlockDirectory(PagePool(num_blocks * _PAGES + 1, PAGE_TOKENS), GreedyDual())
    for number in range(num_blocks):
        _put(directory, *block(number))
    bytes_per_block = (_resident_bytes() - before) / num_blocks
    known = [block(int(number)) for number in rng.integers(0, num_blocks, NUM_TIMED)]
    new = [block(number) for number in range(num_blocks, num_blocks + NUM_TIMED)]
    figures = {
        "bytes_per_block": bytes_per_block,
        "lookup_us": _timed(lambda key, _, ids: directory.lookup(key, ids), known),
        "lookup_pin_pages_unpin_us": _timed(lambda key, _, ids: _use(directory, key, ids), known),
        "put_us": _timed(lambda *one: _put(directory, *one), new),
    }
    if directory.num_misses or directory.num_evictions != NUM_TIMED:
        raise RuntimeError(f"{directory.stats()}: each lookup should hit, each put evict one block")
    return figures | {"integrity_round": _timed_round(directory)}


def _put(directory: BlockDirectory, key: bytes, item_id: str, ids: np.ndarray) -> None:
    block = directory.reserve(key, "item", Owner("", item_id), ids, 1e-3)
    directory.commit(block)
    directory.unpin(block)


def _use(directory: BlockDirectory, key: bytes, ids: np.ndarray) -> None:
    block = directory.lookup(key, ids)
    assert block is not None
    directory.pin(block)
    assert len(block.pages) == _PAGES
    directory.unpin(block)


def _timed(call: Callable[..., Any], arguments: list[tuple[bytes, str, np.ndarray]]) -> dict[str, float]:
    """Microseconds a call: over batches, the median and the least."""

    def batches() -> Iterator[float]:
        for start in range(0, len(arguments), BATCH):
            part = arguments[start : start + BATCH]
            start_s = time.perf_counter()
            for one in part:
                call(*one)
            yield 1e6 * (time.perf_counter() - start_s) / len(part)

    samples = list(batches())
    return {"median": statistics.median(samples), "least": min(samples)}


def _timed_round(directory: BlockDirectory) -> dict[str, float]:
    """A round of the integrity check in parts of 2 ms."""
    samples, is_done = [], False
    while not is_done:
        start_s = time.perf_counter()
        is_done = directory.check_integrity_within(2e-3, time.perf_counter)
        samples.append(1e3 * (time.perf_counter() - start_s))
    return {"total_s": sum(samples) / 1e3, "median_ms": statistics.median(samples), "longest_ms": max(samples)}


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=1_000_000)
    parser.add_argument("--ids", type=int, nargs=2, help="measure in this process, token ids from the first up")
    arguments = parser.parse_args()
    if arguments.ids:
        print(json.dumps(_measure(arguments.blocks, *arguments.ids)))
        return
    figures, claims = measure_directory(arguments.blocks)
    print(json.dumps(figures, indent=1))
    for claim in claims:
        print(f"{claim.name}: {claim.value:.1f} (at most {claim.target:g}): {'holds' if claim.holds else 'FAILS'}")


if __name__ == "__main__":
    main()

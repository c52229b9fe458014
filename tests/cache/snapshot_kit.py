"""What a snapshot's tests need in place of an engine: pages in host memory, and blocks of random KV in them."""

import threading

import jax
import numpy as np

from rcjax.cache import BlockDirectory, BlockKeys, GreedyDual, PagePool, PoolIdentity, as_token_ids
from rcjax.cache.pages import NOWHERE
from rcjax.cache.snapshot import Pool, SnapshotStore, open_snapshot, save_snapshot
from rcjax.cache.snapshot.manifest import read_manifest
from rcjax.cache.snapshot.segments import SegmentIndex, index_name
from rcjax.kernels.kv import KVFormat
from rcjax.prompt import NOBODY, Owner

PAGE_TOKENS = 4
INSTRUCTION_IDS = (3, 1, 4, 1, 5, 9)
# Of one page and of several, full and not; the first page of one of them is that of no other.
LENGTHS = {f"i{i}": 1 + (5 * i) % 13 for i in range(8)}
NAMES = [("item", owner) for owner in LENGTHS] + [("history", "u"), ("history", "v")]
NUM_BLOCKS = len(NAMES)
FORMAT = KVFormat("float32", num_layers=2, num_kv_heads=2, head_dim=3, page_tokens=PAGE_TOKENS)


def of_dtype(dtype):
    return KVFormat(dtype, FORMAT.num_layers, FORMAT.num_kv_heads, FORMAT.head_dim, FORMAT.page_tokens)


class HostPages:
    """A page store in NumPy arrays, full of NaN (integers: 99) but for the null page."""

    def __init__(self, num_pages, kv_format=FORMAT):
        self.format = kv_format
        self.values = kv_format.host_empty(num_pages)
        for array in jax.tree.leaves(self.values):
            array[:, 1:] = 99 if array.dtype == np.int8 else np.nan

    def read_pages(self, pages):
        return jax.tree.map(lambda array: np.take(array, np.asarray(pages, int), axis=1), self.values)

    def write_pages(self, pages, values):
        self.format.check(values)
        for array, new in zip(jax.tree.leaves(self.values), jax.tree.leaves(values), strict=True):
            array[:, list(pages)] = new

    def start_read(self, pages):
        """In two parts, the second with a page too many, as an executor pads the last one."""
        half = len(pages) // 2
        return [self.read_pages(pages[:half]), self.read_pages([*pages[half:], 0])]

    def host_parts(self, num_pages):
        """Of three pages, so that blocks lie in several, full of what no test may find anywhere."""
        parts = [self.format.host_empty(3) for _ in range(-(-num_pages // 3))]
        for array in jax.tree.leaves(parts):
            array[:] = 77
        return parts

    def bring(self, parts):
        return parts

    def start_write(self, pages, parts):
        at = 0
        for part in parts:
            own = pages[at : at + part.num_pages]
            at += part.num_pages
            kept = [place for place, page in enumerate(own) if page != NOWHERE]
            self.write_pages([own[place] for place in kept], jax.tree.map(lambda x, kept=kept: x[:, kept], part))


class Cache:
    """A directory, its pages and its keys; the instruction is cached and pinned, as in an engine."""

    def __init__(self, num_pages=64, kv_format=FORMAT, salt=b""):
        self.directory = BlockDirectory(PagePool(num_pages, PAGE_TOKENS), GreedyDual())
        self.pages = HostPages(num_pages, kv_format)
        self._lock = threading.Lock()
        identity = PoolIdentity("model", "tokenizer", "template", kv_format.dtype, PAGE_TOKENS)
        self.keys = BlockKeys(identity, INSTRUCTION_IDS, salt)
        self._put(self.keys.instruction, "instruction", NOBODY, as_token_ids(INSTRUCTION_IDS))

    @property
    def pool(self):
        return Pool(self.directory, self.pages, build_s, self._run)

    def _run(self, task):
        with self._lock:  # in place of the thread that owns an engine's cache
            return task()

    def put(self, kind, name, token_ids=None, version=0, tenant="", inline=""):
        """Caches a block; its KV is random, but always the same for the same content."""
        owner = Owner(tenant, name, inline)
        if token_ids is None:
            token_ids = range(100, 100 + LENGTHS.get(name, 9))
        ids = as_token_ids(token_ids)
        block = self._put(self.keys.key(kind, owner, ids), kind, owner, ids, version)
        self.directory.unpin(block)
        return block

    def _put(self, key, kind, owner, ids, version=0):
        block = self.directory.reserve(key, kind, owner, ids, build_s(len(ids)), version)
        rng = np.random.default_rng(int.from_bytes(key[:8], "little"))
        values = self.pages.read_pages(block.pages)
        for array in jax.tree.leaves(values):
            flat = array.reshape(array.shape[0], -1, *array.shape[3:])
            flat[:, : len(ids)] = 40 * rng.standard_normal(flat[:, : len(ids)].shape).clip(-3, 3)
        self.pages.write_pages(block.pages, values)
        self.directory.commit(block)
        return block

    def named_blocks(self):
        """The blocks by kind and full id, without the instruction, in order."""
        blocks = self.directory.ready_blocks()
        return {(block.kind, block.owner.full_id): block for block in blocks if block.kind != "instruction"}

    def kv_bytes(self, block):
        """The bytes of the block's KV, without what its last page holds after it."""
        arrays = jax.tree.leaves(self.pages.read_pages(block.pages))
        flat = [array.reshape(array.shape[0], -1, *array.shape[3:]) for array in arrays]
        return [array[:, : block.num_tokens].tobytes() for array in flat]

    def num_pages(self, names):
        return sum(len(self.named_blocks()[name].pages) for name in names)

    def assert_idle(self):
        """Nothing but the instruction is pinned, and the books add up."""
        self.directory.check_integrity()
        assert self.directory.stats().pages_pinned == 2
        assert not any(array[:, 0].any() for array in jax.tree.leaves(self.pages.values)), "the null page stays zero"


def own(name, tenant=""):
    """The owner that an id means."""
    return Owner(tenant, name)


def build_s(num_tokens):
    return 1e-3 + 1e-4 * num_tokens


def stocked(**arguments):
    """A cache that holds all of `NAMES`, in this order."""
    cache = Cache(**arguments)
    for kind, owner in NAMES:
        cache.put(kind, owner)
    return cache


def assert_blocks_are_of(cache, source):
    """Each block is one of `source`'s, bit for bit, with nothing but zeros after it."""
    theirs = source.named_blocks()
    for name, block in cache.named_blocks().items():
        assert block.key == theirs[name].key
        assert block.token_ids.tolist() == theirs[name].token_ids.tolist()
        assert block.cost == theirs[name].cost
        assert cache.kv_bytes(block) == source.kv_bytes(theirs[name])
        for array in jax.tree.leaves(cache.pages.read_pages(block.pages[-1:])):
            assert not array[:, 0, block.num_tokens - (len(block.pages) - 1) * PAGE_TOKENS :].any()


def save(cache, folder, **options):
    return save_snapshot(SnapshotStore(folder), cache.keys, [cache.pool], **options)


def restore(cache, folder, **options):
    restoring = open_snapshot(SnapshotStore(folder), cache.keys, [cache.pool], **options)
    restoring.restore()
    return restoring.finish()


def index_of(folder, number=None):
    """The blocks of a snapshot and their segments, in the order in which they lie there."""
    store = SnapshotStore(folder)
    found = []
    for use in read_manifest(store, number).segments:
        blocks = SegmentIndex.model_validate_json(store.read(index_name(use.name))).blocks
        found += [(use.name, blocks[at]) for at, _ in use.rows.tolist()]
    return found


def files_of(folder):
    """Every file of a snapshot's folder but the lock."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "lock")

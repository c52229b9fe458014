"""What the directory's tests share: small directories, keys for names, and blocks in one step."""

import hashlib
from contextlib import ExitStack, contextmanager

from rcjax.cache import BlockDirectory, GreedyDual, PagePool
from rcjax.prompt import Owner

PAGE_TOKENS = 4


def key_of(name):
    """A key as long as real ones, for whatever tells contents apart in a test."""
    return hashlib.sha256(repr(name).encode()).digest()


def own(name, tenant=""):
    """The owner that an id means."""
    return Owner(tenant, name)


def new_directory(capacity_pages=4, **hooks):
    return BlockDirectory(PagePool(capacity_pages + 1, PAGE_TOKENS), GreedyDual(), **hooks)


def reserve(directory, owner, num_tokens=4, *, key=None, kind="item", cost=1.0, version=0):
    return directory.reserve(key_of(key or owner), kind, own(owner), list(range(num_tokens)), cost, version)


def build(directory, owner, num_tokens=4, **kwargs):
    """A ready block that nobody has pinned."""
    block = reserve(directory, owner, num_tokens, **kwargs)
    directory.commit(block)
    directory.unpin(block)
    return block


@contextmanager
def pinned(directory, *blocks):
    with ExitStack() as stack:
        for block in blocks:
            directory.pin(block)
            stack.callback(directory.unpin, block)
        yield


def lookup(directory, key, num_tokens=4):
    return directory.lookup(key_of(key), range(num_tokens))

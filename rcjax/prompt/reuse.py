"""Which blocks of a prompt are taken from the cache."""

from enum import StrEnum

from rcjax.prompt.blocks import BlockKind


class Reuse(StrEnum):
    """Which blocks an arm takes from the cache."""

    NONE = "none"  # full recompute
    INSTRUCTION = "instruction"  # prefix caching, the user not seen before
    PREFIX = "prefix"  # prefix caching, the user's history in cache: the most a prefix can hold
    BLOCKS = "blocks"  # items too: what this package is for

    @property
    def kinds(self) -> frozenset[BlockKind]:
        return _KINDS[self]


_KINDS = {
    reuse: frozenset((BlockKind.INSTRUCTION, BlockKind.HISTORY, BlockKind.ITEM)[:number])
    for number, reuse in enumerate(Reuse)
}


class History(StrEnum):
    """Where an arm has the KV of a history from that is not in the cache."""

    EXACT = "exact"  # computed, and kept
    SEMANTIC = "semantic"  # from the semantic pool, once there is one

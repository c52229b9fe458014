"""Tiers: where the KV of evicted blocks is kept, so that it comes back instead of being computed again.

    pool (device) -> host memory -> disk

A tier finds a block by its key, as the pool does, compares its tokens, and checks the digest of its KV: a flipped byte
is a miss and a count. What a tier holds ends with the process, on the disk too: a snapshot is what outlives it.
"""

from rcjax.cache.tiers.kept import KeptBlock as KeptBlock
from rcjax.cache.tiers.tiers import Arrival as Arrival
from rcjax.cache.tiers.tiers import KVTiers as KVTiers

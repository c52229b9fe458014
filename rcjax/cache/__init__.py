"""The KV cache's bookkeeping, without JAX: keys, pages, blocks and eviction of one pool."""

from rcjax.cache.blocks import SCRATCH as SCRATCH
from rcjax.cache.blocks import BlockState as BlockState
from rcjax.cache.blocks import CachedBlock as CachedBlock
from rcjax.cache.blocks import PoolStats as PoolStats
from rcjax.cache.directory import BlockDirectory as BlockDirectory
from rcjax.cache.errors import BlockBusyError as BlockBusyError
from rcjax.cache.errors import IntegrityError as IntegrityError
from rcjax.cache.eviction import GreedyDual as GreedyDual
from rcjax.cache.keys import BlockKeys as BlockKeys
from rcjax.cache.keys import PoolIdentity as PoolIdentity
from rcjax.cache.keys import as_token_ids as as_token_ids
from rcjax.cache.orders import NamedOrder as NamedOrder
from rcjax.cache.pages import NULL_PAGE as NULL_PAGE
from rcjax.cache.pages import PagePool as PagePool
from rcjax.cache.pages import num_pages_for_budget as num_pages_for_budget

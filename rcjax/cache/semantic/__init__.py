"""The semantic history pool: KV for the tokens of a history that was never computed.

Zhao et al., "RcLLM", arXiv 2605.07443, III-B; docs/semantic-history.md says what it costs and when it pays.
"""

from rcjax.cache.semantic.embedding import TokenEmbedding as TokenEmbedding
from rcjax.cache.semantic.fields import InstanceFields as InstanceFields
from rcjax.cache.semantic.pool import KVSource as KVSource
from rcjax.cache.semantic.pool import Match as Match
from rcjax.cache.semantic.pool import SemanticPool as SemanticPool

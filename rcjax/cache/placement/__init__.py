"""Placement: which slices an item's block stands on, computed ahead from logged requests. No JAX.

docs/placement.md says what each method does, what it reaches, and how to choose.
"""

from rcjax.cache.placement.bounded_load import MAX_IMBALANCE as MAX_IMBALANCE
from rcjax.cache.placement.hashing import HashMethod as HashMethod
from rcjax.cache.placement.hot_set import HotSet as HotSet
from rcjax.cache.placement.hypergraph import HypergraphMethod as HypergraphMethod
from rcjax.cache.placement.method import PlacementInput as PlacementInput
from rcjax.cache.placement.method import PlacementMethod as PlacementMethod
from rcjax.cache.placement.metis import MetisMethod as MetisMethod
from rcjax.cache.placement.moves import Moves as Moves
from rcjax.cache.placement.moves import moves as moves
from rcjax.cache.placement.overlap import OverlapMethod as OverlapMethod
from rcjax.cache.placement.placement import Placement as Placement
from rcjax.cache.placement.report import PlacementReport as PlacementReport
from rcjax.cache.placement.report import evaluate as evaluate
from rcjax.cache.placement.request_log import RequestLog as RequestLog
from rcjax.cache.placement.request_log import request_matrix as request_matrix
from rcjax.cache.placement.streaming import StreamingMethod as StreamingMethod
from rcjax.cache.placement.streaming import place_newcomers as place_newcomers
from rcjax.cache.placement.text import similar_items as similar_items

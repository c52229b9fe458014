"""Selection policies: which cached tokens of a prompt are computed again.

A policy sees the whole prompt at once, so that one budget can be spread over its blocks, and answers with the
offsets to select in each cached block. How many it selects depends on the lengths of the blocks alone (and on how much
of a history could be borrowed), never on their content, so requests of one shape stay one shape.

`none`, `full` and `boundary` need the prompt only. `offline` needs what was stored with the blocks. `deviation`,
`heavy_hitter` and `query` need a probe: a pass that measures each token before the pass that ranks.
"""

from rcjax.model.selection.fixed import BoundarySelection, FullSelection, NoSelection, OfflineSelection
from rcjax.model.selection.parse import parse_policy
from rcjax.model.selection.policy import Measure, Quantity, SelectionPolicy
from rcjax.model.selection.scored import DeviationSelection, HeavyHitterSelection, QuerySelection
from rcjax.model.selection.tokens import CachedTokens, Offsets
from rcjax.model.selection.union import UnionSelection

__all__ = [
    "BoundarySelection",
    "CachedTokens",
    "DeviationSelection",
    "FullSelection",
    "HeavyHitterSelection",
    "Measure",
    "NoSelection",
    "OfflineSelection",
    "Offsets",
    "Quantity",
    "QuerySelection",
    "SelectionPolicy",
    "UnionSelection",
    "parse_policy",
]

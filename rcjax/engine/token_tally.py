"""Where the tokens of answered prompts came from, by the kind of their block."""

from collections.abc import Collection, Mapping

from rcjax.engine.assembly import Row
from rcjax.engine.claim import Claim
from rcjax.engine.origin import Origin
from rcjax.prompt import BlockKind

CACHED, SELECTED, FRESH = "cached", "selected", "fresh"
SOURCES = (CACHED, SELECTED, FRESH)

Tokens = Mapping[tuple[str, str], int]  # by the kind of block, and one of `SOURCES` or an `Origin`


class TokenTally:
    """Sums up what `TokenCounts` tells of each answer, by kind of block; a slice's thread adds, any thread reads.

    `prompt` has, by kind and source, the tokens of prompts; `missed`, by kind and origin, those of blocks that were not
    in the pool when a request asked for them.
    """

    def __init__(self) -> None:
        self._cached, self._selected, self._fresh = (dict.fromkeys(map(str, BlockKind), 0) for _ in SOURCES)
        self._missed = {(str(kind), str(origin)): 0 for kind in BlockKind for origin in Origin}

    def add(self, row: Row, claim: Claim, unmatched: Mapping[int, Collection[int]]) -> None:
        """The row of an answered request; `unmatched` are, by block, tokens that a semantic pool had no KV for."""
        cached, selected, fresh, sources = self._cached, self._selected, self._fresh, row.sources
        for index, block in enumerate(row.blocks):
            kind = block.kind._value_  # each answer comes through here; `value` is a property, and an enum's hash slow
            num_fresh = len(block.token_ids)
            source = sources.get(index)
            if source is not None:
                num_selected = len(source.selected)
                num_unmatched = len(unmatched[index]) if index in unmatched else 0
                cached[kind] += source.num_cached - num_selected
                selected[kind] += num_selected - num_unmatched
                num_fresh += num_unmatched - source.num_cached
            fresh[kind] += num_fresh
        for build in claim.missed:
            self._missed[build.block.kind.value, build.origin.value] += build.num_fresh

    @property
    def prompt(self) -> Tokens:
        sources = zip(SOURCES, (self._cached, self._selected, self._fresh), strict=True)
        return {(kind, source): number for source, kinds in sources for kind, number in kinds.copy().items()}

    @property
    def missed(self) -> Tokens:
        return self._missed.copy()

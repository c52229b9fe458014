"""Where a simulated slice gets blocks that it lacks, and how long that takes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rcjax.cluster.simulation.blocks import BoundedBlocks
from rcjax.cluster.simulation.costs import CostTable
from rcjax.engine.origin import Origin

_TIERS = (Origin.HOST, Origin.DISK)


@dataclass(frozen=True, slots=True)
class Link:
    """What blocks come over, one request's after the other's: seconds to begin with, then so many bytes a second."""

    bytes_per_s: float
    begin_s: float = 1e-3

    def __post_init__(self) -> None:
        if not (0 < self.bytes_per_s < math.inf and 0 <= self.begin_s < math.inf):
            raise ValueError(f"{self}: bytes_per_s must be above 0, begin_s not below, and both finite")

    def seconds(self, num_bytes: float) -> float:
        return self.begin_s + num_bytes / self.bytes_per_s


@dataclass(slots=True)
class Brought:
    """How a request's missing blocks come: from where each, when all that are copied are here, and what is built."""

    origins: list[Origin] = field(default_factory=list)
    ready_s: float = 0.0
    built_tokens: int = 0


class Sources:
    """The sources of one slice. Each block comes from the one that takes the fewest seconds a token.

    Another slice always holds it, where there is a link to others. Blocks that the slice evicts go to its host tier,
    those of the host tier to its disk tier, both bounded; they stay there when they are brought back.
    """

    def __init__(
        self, costs: CostTable, links: Mapping[Origin, Link], tier_tokens: Mapping[Origin, int], has_peers: bool
    ):
        for origin in _TIERS:
            if tier_tokens.get(origin, 0) and origin not in links:
                raise ValueError(f"the {origin} tier has room and no link; give it one")
        self._links = {o: link for o, link in links.items() if has_peers or o is not Origin.SLICE}
        self._free_at_s = dict.fromkeys(self._links, 0.0)
        self._token_bytes = costs.token_bytes
        self._token_s = {o: costs.token_bytes / link.bytes_per_s for o, link in self._links.items()}
        self._token_s[Origin.BUILT] = costs.build_s(1)
        anywhere = [origin for origin in self._token_s if origin not in _TIERS]
        self._always = min(anywhere, key=self._token_s.__getitem__)  # the source that any block has
        self.token_cost = self._token_s[self._always]  # seconds to bring a token's KV again
        self._has_tiers = any(tier_tokens.values())
        self._disk = BoundedBlocks(tier_tokens.get(Origin.DISK, 0), lambda item, num_tokens: None)
        self._host = BoundedBlocks(tier_tokens.get(Origin.HOST, 0), self._to_disk)

    def keep(self, item: int, num_tokens: int) -> None:
        """Takes a block that the slice evicted."""
        if self._has_tiers and item not in self._host and not self._host.put(item, num_tokens, self.token_cost):
            self._to_disk(item, num_tokens)

    def bring(self, items: Sequence[int], tokens: Sequence[int], now_s: float) -> Brought:
        """Begins to bring blocks of so many tokens each; what comes over a link waits for what began before it."""
        brought = Brought(ready_s=now_s)
        copied_tokens: dict[Origin, int] = {}
        for item, num_tokens in zip(items, tokens, strict=True):
            origin = self._cheapest(item)
            brought.origins.append(origin)
            if origin is Origin.BUILT:
                brought.built_tokens += num_tokens
            else:
                copied_tokens[origin] = copied_tokens.get(origin, 0) + num_tokens
        for origin, num_tokens in copied_tokens.items():
            seconds = self._links[origin].seconds(num_tokens * self._token_bytes)
            self._free_at_s[origin] = max(self._free_at_s[origin], now_s) + seconds
            brought.ready_s = max(brought.ready_s, self._free_at_s[origin])
        return brought

    def _cheapest(self, item: int) -> Origin:
        if not self._has_tiers:
            return self._always
        there = [self._always]
        if self._host.use(item):
            there.append(Origin.HOST)
        if self._disk.use(item):
            there.append(Origin.DISK)
        return min(there, key=self._token_s.__getitem__)

    def _to_disk(self, item: int, num_tokens: int) -> None:
        if item not in self._disk:
            self._disk.put(item, num_tokens, self.token_cost)

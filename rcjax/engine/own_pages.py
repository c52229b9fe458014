"""Which pages of a row only the tokens of one segment see, so that a tile of queries can have them for itself."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, Int32

from rcjax.engine.shape import Shape


@dataclass(frozen=True, slots=True, eq=False)
class OwnPages:
    """G segments whose pages no other token sees, by the row's T fresh tokens and M pages; -1 for none of them."""

    group_of_token: Int[np.ndarray, "T"]
    group_of_page: Int[np.ndarray, "M"]
    token_counts: Int[np.ndarray, "G"]
    page_counts: Int[np.ndarray, "G"]

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Fresh tokens and pages of each."""
        return tuple(zip(self.token_counts.tolist(), self.page_counts.tolist(), strict=True))

    def places(self, shape: Shape) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where each page goes among the shape's pages, those of tiles last, and which queries which tokens are.

        The first segments that fit get a tile each; what pages are left go to those that all queries may see, and
        ValueError is raised where these are too few.
        """
        fits = (self.token_counts <= shape.tile_tokens) & (self.page_counts <= shape.tile_pages)
        tile = np.where(fits, np.cumsum(fits) - 1, -1)
        tile[tile >= shape.tiles] = -1
        # One more, for what is in no group: it is what index -1 finds.
        tile = np.append(tile, -1)
        of_page, of_token = tile[self.group_of_page], tile[self.group_of_token]
        is_own = of_page >= 0
        where = np.cumsum(~is_own) - 1
        if len(where) and where[-1] >= shape.num_pages:
            raise ValueError(f"{where[-1] + 1} pages are not in tiles, more than a pass of {shape} has room for")
        own = shape.num_pages + of_page * shape.tile_pages + _ranks(self.group_of_page, len(self.page_counts))
        token = np.flatnonzero(of_token >= 0)
        rank = _ranks(self.group_of_token, len(self.token_counts))
        return np.where(is_own, own, where), (of_token * shape.tile_tokens + rank)[token], token


def own_pages(tokens: Int32[np.ndarray, "2 T"], segments: Int32[np.ndarray, "M"]) -> OwnPages:
    """From segment and horizon of the fresh tokens and the segments of the pages."""
    of_token, horizons = tokens
    first = int(horizons.max(initial=0))  # a token sees the segments below its horizon, and its own
    groups = np.unique(segments[segments >= first])
    group = np.full(int(max(of_token.max(initial=0), segments.max(initial=0))) + 1, -1)
    group[groups] = np.arange(len(groups))
    group_of_token, group_of_page = group[of_token], group[segments]
    counts = (np.bincount(x[x >= 0], minlength=len(groups)) for x in (group_of_token, group_of_page))
    return OwnPages(group_of_token, group_of_page, *counts)


def _ranks(groups: Int[np.ndarray, "N"], num_groups: int) -> Int[np.ndarray, "N"]:
    """How many elements of the same group come before each."""
    order = np.argsort(groups, kind="stable")
    sorted_groups = groups[order]
    starts = np.searchsorted(sorted_groups, np.arange(-1, num_groups))
    ranks = np.empty(len(groups), np.int64)
    ranks[order] = np.arange(len(groups)) - starts[sorted_groups + 1]
    return ranks

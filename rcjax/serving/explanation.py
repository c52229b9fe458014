"""The explanation of a request: its prompt as it is served, token by token, and who sees whom."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Int, Int32

from rcjax.engine.plan import Plan
from rcjax.engine.preview import Preview
from rcjax.prompt import BlockKind
from rcjax.request import TokenCounts

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True, eq=False)
class ExplainedBlock:
    """A block of a prompt; `owner` is the id of its item or user, where it has one.

    Of its n tokens those of `is_cached` are read from the cache, those of `is_selected` would be there too and are
    computed again, and all others are computed. `text` is without control tokens, `token_ids` with them.

    `is_reused` says that the arm takes the block from the cache, where the slices of `held_by` hold it; with `is_hit`
    the one that serves is among them. Else its KV is copied or computed first. `home` is the position at which it was
    or will be computed. A token sees earlier positions of segments below `horizon`, and of its own `segment`.
    """

    kind: BlockKind
    owner: str
    text: str
    token_ids: Int32[np.ndarray, "n"]
    positions: Int32[np.ndarray, "n"]
    segment: int
    horizon: int
    is_cached: Bool[np.ndarray, "n"]
    is_selected: Bool[np.ndarray, "n"]
    is_reused: bool
    is_hit: bool
    held_by: tuple[int, ...]
    home: int
    num_borrowed: int = 0  # of the cached tokens: those whose KV is that of other histories' tokens

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def num_cached(self) -> int:
        return int(self.is_cached.sum())

    @property
    def num_selected(self) -> int:
        return int(self.is_selected.sum())

    @property
    def num_fresh(self) -> int:
        return len(self) - self.num_cached - self.num_selected

    @property
    def source(self) -> str:
        """Where its cached KV comes from: `hit`, `miss`, `borrowed`, or nothing for a block that is always computed."""
        if not self.is_reused:
            return ""
        return "hit" if self.is_hit else "borrowed" if self.num_borrowed else "miss"


@dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    """A request's prompt as slice `slice_index` would serve it now; print it, show it in a notebook, or `plot` it.

    `blocks` are in prompt order; the last token of each block of `readouts` scores. A selection policy that probes
    chooses when the request runs: how many tokens is known (`num_to_select`), which ones is not, so that `blocks` have
    them as cached.

    Example:

        >>> explanation = engine.explain(request)
        >>> {block.kind.value: block.source for block in explanation.blocks}
        {'instruction': 'hit', 'history': 'hit', 'item': 'hit', 'glue': ''}
        >>> explanation.visible().shape == (explanation.tokens.prompt_len, explanation.tokens.prompt_len)
        True
    """

    arm: str
    layout: str
    scoring: str
    selection: str
    slice_index: int
    blocks: tuple[ExplainedBlock, ...]
    readouts: tuple[int, ...]
    num_to_select: int
    window: int | None  # the most positions that a token sees, itself included; None: all

    @property
    def tokens(self) -> TokenCounts:
        """What `recommend` would count: cached, selected and fresh tokens, and those of borrowed histories."""
        cached, selected = (sum(getattr(b, f"num_{name}") for b in self.blocks) for name in ("cached", "selected"))
        return TokenCounts(
            cached=cached - self.num_to_select,
            selected=selected + self.num_to_select,
            fresh=sum(block.num_fresh for block in self.blocks),
            semantic=sum(block.num_borrowed for block in self.blocks),
        )

    @cached_property
    def starts(self) -> Int32[np.ndarray, "blocks"]:
        """Where each block begins among the prompt's tokens, as `visible` counts them."""
        lengths = np.array([len(block) for block in self.blocks], np.int32)
        return np.cumsum(lengths, dtype=np.int32) - lengths

    def visible(self) -> Bool[np.ndarray, "T T"]:
        """Whether the token of the row sees that of the column; tokens are those of the blocks, end to end.

        A token that the pass computes sees earlier positions of segments below its horizon, and of its own. A cached
        one saw what it was computed from: the instruction, and its own block up to itself. In the `sequential` layout
        that is less than an item's place in the prompt would let it see, and what selection corrects. (What is borrowed
        from another history saw that history.)
        """
        lengths = [len(block) for block in self.blocks]
        segment, horizon = (
            np.repeat(np.array([getattr(b, name) for b in self.blocks], np.int32), lengths)
            for name in ("segment", "horizon")
        )
        position = np.concatenate([block.positions for block in self.blocks])
        query, key = position[:, None], position[None, :]
        seen = key <= query
        seen &= (segment[None, :] == segment[:, None]) | (segment[None, :] < horizon[:, None])
        if self.window is not None:
            seen &= query - key < self.window
        for start, block in zip(self.starts, self.blocks, strict=True):
            if block.num_cached:
                rows = start + np.flatnonzero(block.is_cached)
                seen[rows] = self._seen_at_home(block, int(start), rows)
        return seen

    def _seen_at_home(self, block: ExplainedBlock, start: int, rows: Int[np.ndarray, "R"]) -> Bool[np.ndarray, "R T"]:
        """What cached tokens of a block saw when they were computed, right after the instruction."""
        position = np.full(sum(map(len, self.blocks)), np.iinfo(np.int32).max)  # of what was not there
        first = self.blocks[0]
        if first.kind is BlockKind.INSTRUCTION:
            position[: len(first)] = first.positions
        position[start : start + len(block)] = block.home + np.arange(len(block))
        query = position[rows][:, None]
        seen = position[None, :] <= query
        return seen if self.window is None else seen & (query - position[None, :] < self.window)

    def plot(self) -> "Figure":
        """A figure of the prompt to scale, and of who sees whom by block; a notebook shows it, `savefig` writes it.

        ImportError says what to install where there is no matplotlib.
        """
        from rcjax.serving.explanation_drawing import figure

        return figure(self)

    def _repr_html_(self) -> str:
        from rcjax.serving.explanation_drawing import html_of

        return html_of(self)

    def __repr__(self) -> str:
        from rcjax.serving.explanation_drawing import text_of

        return text_of(self)


def explanation_of(
    plan: Plan,
    preview: Preview,
    held_by: Sequence[tuple[int, ...]],
    slice_index: int,
    decode: Callable[[Sequence[int]], str],
) -> Explanation:
    """From a request's plan, its preview on the slice that serves it, and the slices that hold each block it wants."""
    row = preview.row
    wanted = dict(zip(plan.cached, held_by, strict=True))
    blocks = []
    for index, block in enumerate(row.blocks):
        length = len(block.token_ids)
        is_cached, is_selected = np.zeros((2, length), bool)
        source, unmatched = row.sources.get(index), preview.unmatched.get(index)
        if source is not None:
            is_cached[: source.num_cached] = True
            is_cached[source.selected] = False
            is_selected[source.selected] = True
        if unmatched is not None:  # nobody has them, so that they are simply computed
            is_selected[unmatched] = False
        holders = wanted.get(index, ())
        blocks.append(
            ExplainedBlock(
                kind=block.kind,
                owner=block.owner.id,
                text=decode(block.token_ids.tolist()),
                token_ids=block.token_ids,
                positions=np.arange(block.start, block.end, dtype=np.int32),
                segment=block.segment,
                horizon=block.horizon,
                is_cached=is_cached,
                is_selected=is_selected,
                is_reused=index in wanted,
                is_hit=slice_index in holders,
                held_by=holders,
                home=block.start - (0 if source is None else row.shift(index)),
                num_borrowed=0 if unmatched is None else int(is_cached.sum()),
            )
        )
    arm = plan.arm
    return Explanation(
        arm=plan.request.arm,
        layout=arm.layout.value,
        scoring=arm.scoring.value,
        selection=str(arm.selection),
        slice_index=slice_index,
        blocks=tuple(blocks),
        readouts=tuple(plan.prompt.readouts),
        num_to_select=preview.num_to_select,
        window=preview.window,
    )

"""The selector: which cached tokens of a request are computed again, probing for it where the policy asks."""

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Int32

from rcjax.cache import CachedBlock
from rcjax.engine.assembly import NOTHING, Row, Source, assemble
from rcjax.engine.executor import Executor, Pending
from rcjax.engine.shape import Shape, ShapeSet
from rcjax.model.decoder import Batch
from rcjax.model.probe import KnownTokens
from rcjax.model.selection import CachedTokens, Measure, Quantity, SelectionPolicy
from rcjax.prompt import BlockKind, Prompt

QUERIES = frozenset({BlockKind.GLUE, BlockKind.TASK})


@dataclass(frozen=True, slots=True, eq=False)
class PinnedPrompt:
    """A prompt, and by index those of its blocks that are taken from the cache, pinned, in prompt order.

    `unmatched` has, of each block whose pages the semantic pool filled, the offsets that it had no KV for. They are
    computed by every pass, and are not for a policy to choose.
    """

    prompt: Prompt
    cached: Mapping[int, CachedBlock]
    page_tokens: int
    unmatched: Mapping[int, Int32[np.ndarray, "F"]] = field(default_factory=dict)

    @property
    def num_unmatched(self) -> int:
        return sum(map(len, self.unmatched.values()))

    @property
    def table(self) -> list[Sequence[int]]:
        """The pages of each cached block, as `assemble` takes them."""
        return [block.pages for block in self.cached.values()]

    def tokens(self) -> CachedTokens:
        """The tokens of the cached blocks; of these the unmatched are not correctable."""
        tokens = CachedTokens.of(self.prompt, [self.prompt.blocks[index] for index in self.cached])
        if not self.unmatched:
            return tokens
        matched = [
            np.isin(np.arange(block.num_tokens), self.unmatched.get(index, NOTHING), invert=True)
            for index, block in self.cached.items()
        ]
        return replace(tokens, is_correctable=tokens.is_correctable & np.concatenate(matched))

    def row(self, offsets: Sequence[np.ndarray]) -> Row:
        """The prompt with its cached blocks as sources, minus the tokens at `offsets` of each and the unmatched."""
        sources = {
            index: Source(block.num_tokens, self._with_unmatched(index, selected))
            for (index, block), selected in zip(self.cached.items(), offsets, strict=True)
        }
        return Row(self.prompt.blocks, sources, self.prompt.readouts, self.page_tokens)

    def _with_unmatched(self, index: int, offsets: np.ndarray) -> np.ndarray:
        return np.union1d(offsets, self.unmatched[index]) if index in self.unmatched else offsets


class Selector:
    """Runs selection policies over pinned prompts of one slice.

    Probes have programs of their own, in the shapes of the ranking passes. A probe over the whole prompt takes those
    without pages, one over cached KV those with pages, and either takes all of them where there are none such. Shapes
    with tiles are for ranking alone.
    """

    def __init__(self, executor: Executor, rank_shapes: ShapeSet, page_tokens: int):
        self._executor = executor
        self._page_tokens = page_tokens
        shared = rank_shapes.subset(lambda shape: not shape.tiles)
        self._whole = shared.subset(lambda shape: not shape.num_pages)
        self._over_pages = shared.subset(lambda shape: shape.num_pages > 0)

    def shapes(self, measure: Measure) -> ShapeSet:
        shapes = self._whole if measure.is_whole else self._over_pages
        if any(shape.tiles for shape in shapes):  # what a probe measures is not measured in tiles
            raise ValueError("a probe needs a rank shape without tiles, and there is none")
        return ShapeSet("probe", shapes.shapes, lambda shape: self._executor.cost.pass_s("probe", shape, measure))

    def rows(
        self, policy: SelectionPolicy, prompts: Sequence[PinnedPrompt]
    ) -> Generator[Pending[Any], Any, tuple[list[Row], list[int]]]:
        """The rows of a ranking pass, and how many tokens probes computed for each; yields the probes it waits for."""
        tokens = [prompt.tokens() for prompt in prompts]
        num_probed = [0] * len(prompts)
        if policy.measures and not any(own.num_correctable for own in tokens):
            return [prompt.row([NOTHING] * len(prompt.cached)) for prompt in prompts], num_probed
        measured: list[list[np.ndarray]] = [[] for _ in prompts]
        for measure in policy.measures:
            if not measure.is_probe:
                for prompt, own in zip(prompts, measured, strict=True):
                    own.append(stored_scores(prompt.cached.values()))
                continue
            rows = []
            for prompt, known, own in zip(prompts, tokens, measured, strict=True):
                again = np.ones(len(known), bool) if measure.is_whole else policy.probe_mask(known, own)
                rows.append(prompt.row(known.offsets(again)))
            scores = yield from self.measure(measure, rows, [prompt.table for prompt in prompts])
            for b, own_scores in enumerate(scores):
                measured[b].append(own_scores)
                num_probed[b] += rows[b].num_fresh
        offsets = [policy.choose(own, scores) for own, scores in zip(tokens, measured, strict=True)]
        return [prompt.row(own) for prompt, own in zip(prompts, offsets, strict=True)], num_probed

    def measure(
        self, measure: Measure, rows: Sequence[Row], tables: Sequence[Sequence[Sequence[int]]]
    ) -> Generator[Pending[Any], Any, list[np.ndarray]]:
        """What one probe says of the cached tokens of each row, [..., S]; -inf of those that it did not measure."""
        shape = self.shapes(measure).fit([row.size for row in rows])
        arrays = self.probe_arrays(rows, tables, shape)
        values = yield self._executor.probe(*arrays, shape, measure)
        if measure.quantity is Quantity.QUERY_ATTENTION:
            return [_of_pages(row, values[b]) for b, row in enumerate(rows)]
        return [_of_fresh(row, values[..., b, :]) for b, row in enumerate(rows)]

    def probe_arrays(
        self, rows: Sequence[Row], tables: Sequence[Sequence[Sequence[int]]], shape: Shape
    ) -> tuple[Batch, KnownTokens, np.ndarray]:
        """The batch of a probe, where each fresh token's cached KV is, and which tokens ask."""
        batch = assemble([replace(row, readouts=()) for row in rows], tables, shape, self._page_tokens, 1)
        slots, home = np.full((2, *batch.token_ids.shape), -1, np.int32)
        asks = np.zeros(batch.token_ids.shape, bool)
        for b, (row, table) in enumerate(zip(rows, tables, strict=True)):
            pages = dict(zip(row.sources, table, strict=True))
            at = 0
            for index, block in enumerate(row.blocks):
                offsets = row.fresh_offsets(index)
                here = slice(at, at + len(offsets))
                asks[b, here] = block.kind in QUERIES
                if index in pages:
                    page, slot = np.divmod(offsets, self._page_tokens)
                    slots[b, here] = np.asarray(pages[index], np.int32)[page] * self._page_tokens + slot
                    home[b, here] = block.start - row.shift(index) + offsets
                at += len(offsets)
        return batch, KnownTokens(slots, home), asks


def stored_scores(blocks: Iterable[CachedBlock]) -> np.ndarray:
    """Scores that put each block's tokens in the order that is stored with it, or from the first on."""
    parts = []
    for block in blocks:
        score = np.arange(block.num_tokens, 0, -1, dtype=np.float32)
        if block.order is not None:
            score[block.order] = score.copy()
        parts.append(score)
    return np.concatenate(parts)


def _of_fresh(row: Row, values: np.ndarray) -> np.ndarray:
    """From a value for each fresh token [..., T] to one for each cached token [..., S]."""
    parts, at = [], 0
    for index, block in enumerate(row.blocks):
        offsets = row.fresh_offsets(index)
        if index in row.sources:
            part = np.full((*values.shape[:-1], len(block)), -np.inf, np.float32)
            part[..., offsets] = values[..., at : at + len(offsets)]
            parts.append(part)
        at += len(offsets)
    return np.concatenate(parts, axis=-1)


def _of_pages(row: Row, values: np.ndarray) -> np.ndarray:
    """From a value for each slot of the row's pages [M, C] to one for each cached token [S]."""
    parts, at = [], 0
    for source in row.sources.values():
        part = np.full(source.num_cached, -np.inf, np.float32)
        if source.is_read:
            num_pages = -(-source.num_cached // row.page_tokens)
            part[:] = values[at : at + num_pages].reshape(-1)[: source.num_cached]
            part[source.selected] = -np.inf
            at += num_pages
        parts.append(part)
    return np.concatenate(parts)

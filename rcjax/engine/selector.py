"""The selector: which cached tokens of a request are computed again, probing for it where the policy asks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Int32

from rcjax.cache import CachedBlock
from rcjax.engine.assembly import Row, Source, assemble
from rcjax.engine.executor import Slice
from rcjax.engine.shape import Shape, ShapeSet
from rcjax.model.selection import CachedTokens, Measure, Quantity, SelectionPolicy
from rcjax.prompt import BlockKind, Prompt

QUERIES = frozenset({BlockKind.GLUE, BlockKind.TASK})


@dataclass(frozen=True, slots=True, eq=False)
class Resident:
    """A prompt, and by index those of its blocks that are taken from the cache, in prompt order.

    `unmatched` has, of each block whose pages the semantic pool filled, the offsets that it had no KV for. They are
    computed by every pass, and are not for a policy to choose.
    """

    prompt: Prompt
    cached: Mapping[int, CachedBlock]
    unmatched: Mapping[int, Int32[np.ndarray, "F"]] = field(default_factory=dict)

    @property
    def num_unmatched(self) -> int:
        return sum(map(len, self.unmatched.values()))

    def tokens(self) -> CachedTokens:
        """The tokens of the cached blocks; of these the unmatched are not correctable."""
        tokens = CachedTokens.of(self.prompt, [self.prompt.blocks[index] for index in self.cached])
        if not self.unmatched:
            return tokens
        matched = [
            np.isin(np.arange(block.num_tokens), self.unmatched.get(index, _nothing()), invert=True)
            for index, block in self.cached.items()
        ]
        return replace(tokens, is_correctable=tokens.is_correctable & np.concatenate(matched))

    def row(self, offsets: Sequence[np.ndarray]) -> Row:
        """The prompt with its cached blocks as sources, minus the tokens at `offsets` of each and the unmatched."""
        sources = {
            index: Source(block.pages, block.num_tokens, self._with_unmatched(index, selected))
            for (index, block), selected in zip(self.cached.items(), offsets, strict=True)
        }
        return Row(self.prompt.blocks, sources, self.prompt.readouts)

    def _with_unmatched(self, index: int, offsets: np.ndarray) -> np.ndarray:
        return np.union1d(offsets, self.unmatched[index]) if index in self.unmatched else offsets


class Selector:
    """Runs selection policies over resident blocks of one slice.

    Probes have programs of their own, in the shapes of the ranking passes: those without pages for a probe over the
    whole prompt, those with pages for one over cached KV; any of them where there is none such.
    """

    def __init__(self, slice_: Slice, rank_shapes: ShapeSet, page_tokens: int):
        self._slice = slice_
        self._page_tokens = page_tokens
        self._compiled: set[Measure] = set()
        shapes = rank_shapes.shapes
        self._whole = ShapeSet("probe", [shape for shape in shapes if not shape.num_pages] or shapes)
        self._over_pages = ShapeSet("probe", [shape for shape in shapes if shape.num_pages] or shapes)

    def shapes(self, measure: Measure) -> ShapeSet:
        return self._whole if measure.is_whole else self._over_pages

    def compile(self, measures: Sequence[Measure], progress: Callable[[str], None]) -> None:
        """Compiles the probes of `measures` in every shape; ValueError where the model has too few layers."""
        for measure in measures:
            if measure in self._compiled:
                continue
            self._compiled.add(measure)
            for shape in self.shapes(measure):
                progress(f"compiling the probe for {measure.quantity} in layer {measure.layer}, {shape}")
                self._probe(measure, [], shape)

    def rows(self, policy: SelectionPolicy, requests: Sequence[Resident]) -> tuple[list[Row], list[int]]:
        """The rows of a ranking pass, and how many tokens probes computed for each."""
        tokens = [request.tokens() for request in requests]
        if policy.measures and not any(own.num_correctable for own in tokens):
            return [request.row([_nothing() for _ in request.cached]) for request in requests], [0] * len(requests)
        measured: list[list[np.ndarray]] = [[] for _ in requests]
        num_probed = [0] * len(requests)
        for measure in policy.measures:
            if not measure.is_probe:
                for request, own in zip(requests, measured, strict=True):
                    own.append(_stored(request))
                continue
            rows = []
            for request, known, own in zip(requests, tokens, measured, strict=True):
                again = np.ones(len(known), bool) if measure.is_whole else policy.probe_mask(known, own)
                rows.append(request.row(known.offsets(again)))
            for b, scores in enumerate(self.measure(measure, rows)):
                measured[b].append(scores)
                num_probed[b] += rows[b].num_fresh
        offsets = [policy.choose(own, scores) for own, scores in zip(tokens, measured, strict=True)]
        return [request.row(own) for request, own in zip(requests, offsets, strict=True)], num_probed

    def measure(self, measure: Measure, rows: Sequence[Row]) -> list[np.ndarray]:
        """What one probe says of the cached tokens of each row, [..., S]; -inf of those that it did not measure."""
        shape = self.shapes(measure).fit(
            max(row.num_fresh for row in rows), max(row.num_pages for row in rows), len(rows)
        )
        values = self._probe(measure, rows, shape)
        if measure.quantity is Quantity.QUERY_ATTENTION:
            return [_of_pages(row, values[b]) for b, row in enumerate(rows)]
        return [_of_fresh(row, values[..., b, :]) for b, row in enumerate(rows)]

    def _probe(self, measure: Measure, rows: Sequence[Row], shape: Shape) -> np.ndarray:
        batch = assemble([replace(row, readouts=()) for row in rows], shape, self._page_tokens, 1)
        slots = np.full(batch.token_ids.shape, -1, np.int32)
        asks = np.zeros(batch.token_ids.shape, bool)
        for b, row in enumerate(rows):
            at = 0
            for index, block in enumerate(row.blocks):
                offsets = row.fresh_offsets(index)
                here = slice(at, at + len(offsets))
                asks[b, here] = block.kind in QUERIES
                if index in row.sources:
                    page, slot = np.divmod(offsets, self._page_tokens)
                    slots[b, here] = np.asarray(row.sources[index].pages, np.int32)[page] * self._page_tokens + slot
                at += len(offsets)
        return self._slice.probe(batch, slots, asks, measure)


def _nothing() -> np.ndarray:
    return np.zeros(0, np.int32)


def _stored(request: Resident) -> np.ndarray:
    """Scores that put each block's tokens in the order that is stored with it, or from the first on."""
    parts = []
    for block in request.cached.values():
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
        if source.read_pages:
            part[:] = values[at : at + len(source.pages)].reshape(-1)[: source.num_cached]
            part[source.selected] = -np.inf
            at += len(source.pages)
        parts.append(part)
    return np.concatenate(parts)

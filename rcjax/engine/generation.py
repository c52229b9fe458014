"""Generation: decoding is `extend` with everything cached and one fresh token."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from rcjax.cache import BlockDirectory
from rcjax.engine.assembly import Row, Source, assemble
from rcjax.engine.executor import Slice
from rcjax.engine.shape import ShapeSet
from rcjax.prompt import Block

NOTHING = np.zeros(0, np.int32)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen: the likeliest at `temperature` 0, else drawn from softmax(logits / temperature)."""

    max_new_tokens: int = 32
    temperature: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.temperature < 0:
            raise ValueError(f"{self.max_new_tokens=} must be at least 1 and {self.temperature=} at least 0")

    def choose(self, logits: np.ndarray, rng: np.random.Generator) -> int:
        """A token id from logits [V]; draws from `rng` unless greedy."""
        if self.temperature == 0:
            return int(logits.argmax())
        scaled = logits.astype(np.float64) / self.temperature
        weights = np.exp(scaled - scaled.max())
        return int(rng.choice(len(weights), p=weights / weights.sum()))


class Generator:
    """Continues a row of cached and fresh blocks, in scratch pages that are given back at the end."""

    def __init__(self, slice_: Slice, directory: BlockDirectory, shapes: ShapeSet, eos_ids: frozenset[int]):
        self._slice = slice_
        self._directory = directory
        self._shapes = shapes
        self._eos_ids = eos_ids
        self._page_tokens = directory.pool.page_tokens

    def generate(self, row: Row, sampling: Sampling) -> list[int]:
        """The token ids that follow the row's last block, without the end-of-text token that may close them.

        The row's sources stay pinned by the caller. Raises `InvalidRequestError` where no shape holds the row or
        its continuation, and `ResourceExhaustedError` where the pool has no pages for it.
        """
        runs = list(_fresh_runs(row))
        num_pages = [self._directory.pool.pages_for(len(run)) for run in runs]
        num_pages.append(self._directory.pool.pages_for(sampling.max_new_tokens))
        self._shapes.fit(1, row.num_pages + sum(num_pages))
        scratch = self._directory.reserve_scratch(sum(num_pages))
        try:
            ends = np.cumsum(num_pages)
            pages = [scratch.pages[end - num : end] for end, num in zip(ends, num_pages, strict=True)]
            return self._continue(row, runs, pages, sampling)
        finally:
            self._directory.release(scratch)

    def _continue(self, row: Row, runs: list[Block], pages: list[tuple[int, ...]], sampling: Sampling) -> list[int]:
        rng = np.random.default_rng(sampling.seed)
        logits = self._prefill(row, runs, pages)
        blocks = [row.blocks[index] for index in row.sources] + runs
        sources = [replace(source, is_corrected=True) for source in row.sources.values()] + [
            Source(where, len(run), NOTHING) for run, where in zip(runs, pages, strict=False)
        ]
        last = row.blocks[-1]
        new: list[int] = []
        while len(new) < sampling.max_new_tokens:
            token = sampling.choose(logits, rng)
            if token in self._eos_ids:
                break
            new.append(token)
            if len(new) == sampling.max_new_tokens:
                break
            ids = np.array(new, np.int32)
            grown = Block(last.kind, ids, last.end, last.segment, last.horizon)
            known = Source(pages[-1], len(new) - 1, NOTHING)
            index = len(blocks)
            step = Row([*blocks, grown], dict(enumerate([*sources, known])), (index,))
            logits = self._step(step, pages[-1], len(new) - 1)
        return new

    def _prefill(self, row: Row, runs: list[Block], pages: list[tuple[int, ...]]) -> np.ndarray:
        shape = self._shapes.fit(row.num_fresh, row.num_pages)
        source, destination = self.no_writes(shape.fresh_tokens)
        at = token = 0
        for run, where in zip(runs, pages, strict=False):
            slots = np.full(len(where) * self._page_tokens, -1, np.int32)
            slots[: len(run)] = token + np.arange(len(run))
            source[at : at + len(where)] = slots.reshape(-1, self._page_tokens)
            destination[at : at + len(where)] = where
            at += len(where)
            token += len(run)
        readable = Row(row.blocks, row.sources, (len(row.blocks) - 1,))
        batch = assemble([readable], shape, self._page_tokens, 1)
        return self._slice.decode(batch, source, destination)[0, 0]

    def _step(self, row: Row, pages: tuple[int, ...], slot: int) -> np.ndarray:
        shape = self._shapes.fit(1, row.num_pages)
        source, destination = self.no_writes(shape.fresh_tokens)
        source[0, slot % self._page_tokens] = 0
        destination[0] = pages[slot // self._page_tokens]
        return self._slice.decode(assemble([row], shape, self._page_tokens, 1), source, destination)[0, 0]

    def no_writes(self, fresh_tokens: int) -> tuple[np.ndarray, np.ndarray]:
        """The source and destination of a pass that writes nothing; every fresh token may need a page of its own."""
        return np.full((fresh_tokens, self._page_tokens), -1, np.int32), np.zeros(fresh_tokens, np.int32)


def _fresh_runs(row: Row) -> Iterator[Block]:
    """The fresh tokens as blocks of neighbouring positions, in the order in which the pass computes them."""
    for index, block in enumerate(row.blocks):
        offsets = row.fresh_offsets(index)
        for run in np.split(offsets, np.flatnonzero(np.diff(offsets) != 1) + 1):
            if len(run):
                start = block.start + int(run[0])
                yield Block(block.kind, block.token_ids[run], start, block.segment, block.horizon)

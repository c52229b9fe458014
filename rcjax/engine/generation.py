"""Generation: decoding is `extend` with everything cached and one fresh token."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from rcjax.engine.assembly import Row, Source, assemble
from rcjax.engine.block_cache import BlockCache
from rcjax.engine.claim import Claim
from rcjax.engine.plan import Plan
from rcjax.engine.ranker import pinned_prompt, token_counts
from rcjax.engine.selector import Selector
from rcjax.engine.semantic_history import SemanticHistories
from rcjax.engine.shape import RowSize, ShapeSet
from rcjax.engine.state import RequestState, claim_of
from rcjax.engine.tasks import Steps
from rcjax.prompt import Block
from rcjax.request import TokenCounts

Pages = Sequence[int]


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


class Listener(Protocol):
    """Hears of a generation as it goes, on the worker's thread; what it raises ends the generation."""

    def on_prompt(self, tokens: TokenCounts) -> None:
        """What the prompt is made of, before the first token."""
        ...

    def on_token(self, token_id: int) -> None:
        """A new token, as soon as it is chosen; the end-of-text token is none."""
        ...


class Silence:
    """Listens to nothing: for those who wait for all tokens."""

    def on_prompt(self, tokens: TokenCounts) -> None: ...

    def on_token(self, token_id: int) -> None: ...


SILENCE = Silence()


class Generator:
    """Continues a prompt of cached and fresh blocks, in scratch pages that are given back at the end."""

    def __init__(
        self,
        cache: BlockCache,
        selector: Selector,
        semantic: SemanticHistories | None,
        shapes: ShapeSet,
        eos_ids: frozenset[int],
    ):
        self._cache = cache
        self._selector = selector
        self._semantic = semantic
        self._shapes = shapes
        self._eos_ids = eos_ids
        self._page_tokens = cache.page_tokens

    def steps(self, source: Plan | Block, sampling: Sampling, listener: Listener = SILENCE) -> Steps[list[int]]:
        """The token ids that follow a plan's prompt, or a text, without the end-of-text token that may close them.

        Gives way before each token, and tells `listener` of each. Raises `InvalidRequestError` where no shape holds the
        prompt or its continuation, and `ResourceExhaustedError` where the pool has no pages for it.
        """
        if isinstance(source, Block):
            return (yield from self._continue_text(source, sampling, listener))
        state = RequestState(source, 0.0, None, Future(), claim_of(source))
        if self._semantic is not None:
            self._semantic.borrow(state)
        yield state.claim
        try:
            if self._semantic is not None:
                self._semantic.complete(state)
            prompt = pinned_prompt(state, self._page_tokens)
            (row,), (num_probed,) = yield from self._selector.rows(source.arm.selection, [prompt])
            listener.on_prompt(token_counts(state, row, num_probed))
            return (yield from self._generate(row, prompt.table, sampling, listener))
        finally:
            self._cache.release(state.claim)

    def _continue_text(self, text: Block, sampling: Sampling, listener: Listener) -> Steps[list[int]]:
        # It wants no blocks, but holds pages that others may have to wait for: the cache has to know of it.
        claim = Claim((), 0, is_urgent=True)
        yield claim
        try:
            listener.on_prompt(TokenCounts(fresh=len(text)))
            return (yield from self._generate(Row([text], {}, (), self._page_tokens), [], sampling, listener))
        finally:
            self._cache.release(claim)

    def _generate(self, row: Row, table: list[Pages], sampling: Sampling, listener: Listener) -> Steps[list[int]]:
        pool = self._cache.directory.pool
        runs = list(_fresh_runs(row))
        num_pages = [pool.pages_for(len(run)) for run in runs]
        num_pages.append(pool.pages_for(sampling.max_new_tokens))
        self._shapes.fit([RowSize(1, row.num_pages + sum(num_pages))])
        scratch = self._cache.directory.reserve_scratch(sum(num_pages))
        try:
            ends = np.cumsum(num_pages)
            own = tuple(scratch.pages)
            pages: list[Pages] = [own[end - num : end] for end, num in zip(ends, num_pages, strict=True)]
            return (yield from self._continue(row, table, runs, pages, sampling, listener))
        finally:
            self._cache.directory.release(scratch)

    def _continue(
        self,
        row: Row,
        table: list[Pages],
        runs: list[Block],
        pages: list[Pages],
        sampling: Sampling,
        listener: Listener,
    ) -> Steps[list[int]]:
        rng = np.random.default_rng(sampling.seed)
        logits = yield from self._prefill(row, table, runs, pages)
        blocks = [row.blocks[index] for index in row.sources] + runs
        sources = [replace(source, is_corrected=True) for source in row.sources.values()]
        sources += [Source(len(run), in_place=True) for run in runs]
        last = row.blocks[-1]
        new: list[int] = []
        while len(new) < sampling.max_new_tokens:
            token = sampling.choose(logits, rng)
            if token in self._eos_ids:
                break
            new.append(token)
            listener.on_token(token)
            if len(new) == sampling.max_new_tokens:
                break
            yield None
            ids = np.array(new, np.int32)
            grown = Block(last.kind, ids, last.end, last.segment, last.horizon)
            known = Source(len(new) - 1, in_place=True)
            index = len(blocks)
            step = Row([*blocks, grown], dict(enumerate([*sources, known])), (index,), self._page_tokens)
            logits = yield from self._step(step, [*table, *pages], len(new) - 1)
        return new

    def _prefill(self, row: Row, table: list[Pages], runs: list[Block], pages: list[Pages]) -> Steps[np.ndarray]:
        shape = self._shapes.fit([row.size])
        source, destination = self.no_writes(shape.fresh_tokens, self._page_tokens)
        at = token = 0
        for run, where in zip(runs, pages, strict=False):
            slots = np.full(len(where) * self._page_tokens, -1, np.int32)
            slots[: len(run)] = token + np.arange(len(run))
            source[at : at + len(where)] = slots.reshape(-1, self._page_tokens)
            destination[at : at + len(where)] = where
            at += len(where)
            token += len(run)
        readable = replace(row, readouts=(len(row.blocks) - 1,))
        batch = assemble([readable], [table], shape, self._page_tokens, 1)
        logits = yield self._cache.executor.decode(batch, source, destination, shape)
        return np.asarray(logits[0, 0])

    def _step(self, row: Row, table: list[Pages], slot: int) -> Steps[np.ndarray]:
        """Computes the newest token, whose KV goes to `slot` of the pages that the continuation has."""
        shape = self._shapes.fit([row.size])
        source, destination = self.no_writes(shape.fresh_tokens, self._page_tokens)
        source[0, slot % self._page_tokens] = 0
        destination[0] = table[-1][slot // self._page_tokens]
        used = zip(row.sources.values(), table, strict=True)
        read = [pages[: -(-known.num_cached // self._page_tokens)] for known, pages in used]
        batch = assemble([row], [read], shape, self._page_tokens, 1)
        logits = yield self._cache.executor.decode(batch, source, destination, shape)
        return np.asarray(logits[0, 0])

    @staticmethod
    def no_writes(fresh_tokens: int, page_tokens: int) -> tuple[np.ndarray, np.ndarray]:
        """The source and destination of a pass that writes nothing; every fresh token may need a page of its own."""
        return np.full((fresh_tokens, page_tokens), -1, np.int32), np.zeros(fresh_tokens, np.int32)


def _fresh_runs(row: Row) -> Iterator[Block]:
    """The fresh tokens as blocks of neighbouring positions, in the order in which the pass computes them."""
    for index, block in enumerate(row.blocks):
        offsets = row.fresh_offsets(index)
        for run in np.split(offsets, np.flatnonzero(np.diff(offsets) != 1) + 1):
            if len(run):
                start = block.start + int(run[0])
                yield Block(block.kind, block.token_ids[run], start, block.segment, block.horizon)

"""Offline choice: the order in which a block's tokens are worth correcting, worked out before any request."""

from collections.abc import Iterator, Sequence

import numpy as np

from rcjax.engine.block_cache import BlockCache
from rcjax.engine.library import Library
from rcjax.engine.selector import Resident, Selector
from rcjax.model.selection import Measure, Quantity
from rcjax.prompt import Block, BlockKind, Layout, Prompt, PromptBuilder, Scoring

NUM_CONTEXTS = 4  # prompts that each item is measured in
NUM_ITEMS = 20  # in such a prompt, where a shape holds it
DEVIATION = Measure(Quantity.MEAN_DEVIATION)


class OrderChooser:
    """Measures items' KV in sampled prompts and stores with each block where it deviates most.

    "CacheTune", arXiv 2605.24022. A context is a `sequential` prompt of `NUM_ITEMS` items in random order, filled with
    other items of the library, after a random user's history. The deviation is ||KV_new - KV_cached||_2, averaged
    over layers and contexts.
    """

    def __init__(self, selector: Selector, cache: BlockCache, builder: PromptBuilder, library: Library):
        self._selector = selector
        self._cache = cache
        self._builder = builder
        self._library = library

    def choose(self, blocks: Sequence[Block], seed: int) -> int:
        """Gives each of `blocks`, items of the library, its order if it has none; returns how many got one.

        A block that the pool cannot keep gets none. Costs `NUM_CONTEXTS` prefills of every block.
        """
        rng = np.random.default_rng(seed)
        wanted = [block for block in blocks if self._order(block) is None]
        totals = {block.owner: np.zeros(len(block)) for block in wanted}
        for _ in range(NUM_CONTEXTS):
            shuffled = [wanted[i] for i in rng.permutation(len(wanted))]
            for prompt, measured in self._contexts(shuffled, rng):
                for block, deviation in zip(measured, self._deviations(prompt, measured), strict=True):
                    totals[block.owner] += deviation
        num_stored = 0
        for block in wanted:
            cached = self._cache.current(block)
            if cached is not None:
                self._cache.directory.set_order(cached, np.argsort(-totals[block.owner], kind="stable"))
                num_stored += 1
        return num_stored

    def _order(self, block: Block) -> np.ndarray | None:
        cached = self._cache.current(block)
        return None if cached is None else cached.order

    def _contexts(self, blocks: list[Block], rng: np.random.Generator) -> Iterator[tuple[Prompt, list[Block]]]:
        """Prompts that hold each of `blocks` once, and which of these each holds: no more than shapes and pool do."""
        size, at = min(NUM_ITEMS, len(self._builder.labels)), 0
        while at < len(blocks):
            measured = blocks[at : at + size]
            prompt = self._prompt(measured, size, rng)
            if size > 1 and not self._holds(prompt, measured):
                size -= 1
                continue
            yield prompt, measured
            at += len(measured)

    def _holds(self, prompt: Prompt, measured: Sequence[Block]) -> bool:
        num_pages = sum(self._cache.directory.pool.pages_for(len(block)) for block in measured)
        shapes = self._selector.shapes(DEVIATION)
        return num_pages <= self._cache.directory.num_available_pages and any(
            shape.holds(prompt.num_tokens, 0) for shape in shapes
        )

    def _prompt(self, measured: Sequence[Block], size: int, rng: np.random.Generator) -> Prompt:
        known, users = list(self._library.items.values()), self._library.user_ids
        owners = {block.owner for block in measured}
        others = [known[i] for i in rng.permutation(len(known))[: size + len(owners)] if known[i].item_id not in owners]
        items = [*measured, *map(self._builder.item_block, others[: size - len(measured)])]
        if users:
            history = self._library.history(users[rng.integers(len(users))])
        else:
            history = self._library.events_block("", ())
        shuffled = [items[i] for i in rng.permutation(len(items))]
        return self._builder.build(history, shuffled, Layout.SEQUENTIAL, Scoring.LABEL)

    def _deviations(self, prompt: Prompt, measured: Sequence[Block]) -> list[np.ndarray]:
        at = {block.owner: i for i, block in enumerate(prompt.blocks) if block.kind is BlockKind.ITEM}
        in_order = sorted(measured, key=lambda block: at[block.owner])
        with self._cache.resident(in_order) as (cached, _):
            resident = Resident(prompt, {at[block.owner]: one for block, one in zip(in_order, cached, strict=True)})
            row = resident.row([np.arange(len(block)) for block in in_order])
            (values,) = self._selector.measure(DEVIATION, [row])
        parts = np.split(values, np.cumsum([len(block) for block in in_order])[:-1])
        of_owner = {block.owner: part for block, part in zip(in_order, parts, strict=True)}
        return [of_owner[block.owner] for block in measured]

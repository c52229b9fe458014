"""Offline choice: the order in which a block's tokens are worth correcting, worked out before any request."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rcjax.engine.block_cache import BlockCache
from rcjax.engine.claim import Claim
from rcjax.engine.plan import PlannedBlock
from rcjax.engine.planner import Planner
from rcjax.engine.selector import PinnedPrompt, Selector
from rcjax.engine.shape import RowSize
from rcjax.engine.tasks import Steps
from rcjax.model.selection import Measure, Quantity
from rcjax.prompt import Block, BlockKind, Layout, Owner, Prompt, PromptBuilder, Scoring

NUM_CONTEXTS = 4  # prompts that each item is measured in
NUM_ITEMS = 20  # in such a prompt, where a shape holds it
DEVIATION = Measure(Quantity.MEAN_DEVIATION)


class OrderChooser:
    """Measures items' KV in sampled prompts and stores with each block where it deviates most.

    "CacheTune", arXiv 2605.24022. A context is a `sequential` prompt of `NUM_ITEMS` items in random order, filled with
    other items of the same tenant, after the history of one of its users. The deviation is ||KV_new - KV_cached||_2,
    averaged over layers and contexts. Choosing gives way after each prompt.
    """

    def __init__(self, selector: Selector, cache: BlockCache, builder: PromptBuilder, planner: Planner):
        self._selector = selector
        self._cache = cache
        self._builder = builder
        self._planner = planner
        self._seed: int | None = None

    def choose_all(self, seed: int) -> Steps[int]:
        """Gives every item of the library its order, and later ones as they come; returns how many got one."""
        self._seed = seed
        return (yield from self._choose(self._items(self._planner.library.item_owners), seed))

    def choose_new(self, blocks: Sequence[PlannedBlock]) -> Steps[int]:
        """Gives items that were just put their order, once `choose_all` has been called."""
        if self._seed is None:
            return 0
        return (yield from self._choose(blocks, self._seed))

    def _choose(self, blocks: Sequence[PlannedBlock], seed: int) -> Steps[int]:
        """A block that the pool cannot keep gets none. Costs `NUM_CONTEXTS` prefills of every block."""
        orders = self._cache.directory.orders()
        wanted: dict[str, list[PlannedBlock]] = {}
        for planned in blocks:
            if planned.key not in orders:
                wanted.setdefault(planned.block.owner.tenant, []).append(planned)
        num_stored = 0
        for tenant, of_tenant in wanted.items():
            num_stored += yield from self._choose_for(tenant, of_tenant, np.random.default_rng(seed))
        return num_stored

    def _choose_for(self, tenant: str, wanted: list[PlannedBlock], rng: np.random.Generator) -> Steps[int]:
        """In contexts of what one tenant has, as an order tells of these."""
        totals = {planned.block.owner: np.zeros(len(planned.block)) for planned in wanted}
        library = self._planner.library
        known = _Known(_of(tenant, library.item_owners), _of(tenant, library.user_owners))
        for _ in range(NUM_CONTEXTS):
            shuffled = [wanted[i] for i in rng.permutation(len(wanted))]
            for prompt, measured in self._contexts(shuffled, known, rng):
                deviations = yield from self._deviations(prompt, measured)
                for planned, deviation in zip(measured, deviations, strict=True):
                    totals[planned.block.owner] += deviation
                yield None
        num_stored = 0
        for planned in wanted:
            cached = self._cache.directory.current(planned.block.kind, planned.block.owner)
            if cached is not None and cached.key == planned.key:
                order = np.argsort(-totals[planned.block.owner], kind="stable")
                self._cache.directory.set_order(cached, order)
                num_stored += 1
        return num_stored

    def _contexts(
        self, blocks: list[PlannedBlock], known: "_Known", rng: np.random.Generator
    ) -> Iterator[tuple[Prompt, list[PlannedBlock]]]:
        """Prompts that hold each of `blocks` once, and which of these each holds: no more than shapes and pool do."""
        size, at = min(NUM_ITEMS, len(self._builder.labels)), 0
        while at < len(blocks):
            measured = blocks[at : at + size]
            prompt = self._prompt(measured, size, known, rng)
            if size > 1 and not self._holds(prompt, measured):
                size -= 1
                continue
            yield prompt, measured
            at += len(measured)

    def _holds(self, prompt: Prompt, measured: Sequence[PlannedBlock]) -> bool:
        pool = self._cache.directory.pool
        num_pages = sum(pool.pages_for(len(planned.block)) for planned in measured)
        return num_pages <= self._cache.directory.num_available_pages and any(
            shape.holds(RowSize(prompt.num_tokens, 0)) for shape in self._selector.shapes(DEVIATION)
        )

    def _prompt(self, measured: Sequence[PlannedBlock], size: int, known: "_Known", rng: np.random.Generator) -> Prompt:
        owners = {planned.block.owner for planned in measured}
        others = [item for item in known.some_items(size + len(owners), rng) if item not in owners]
        items = [planned.block for planned in measured]
        items += [planned.block for planned in self._items(others[: size - len(measured)])]
        shuffled = [items[i] for i in rng.permutation(len(items))]
        history = self._history(known.some_user(rng))
        return self._builder.build(history, shuffled, Layout.SEQUENTIAL, Scoring.LABEL)

    def _items(self, items: Sequence[Owner]) -> list[PlannedBlock]:
        found = map(self._planner.item_block, items)
        return [planned for planned in found if planned is not None]

    def _history(self, user: Owner | None) -> Block:
        planned = self._planner.history_block(user) if user is not None else None
        if planned is not None:
            return planned.block
        return self._builder.block(BlockKind.HISTORY, self._builder.history_ids(()))

    def _deviations(self, prompt: Prompt, measured: Sequence[PlannedBlock]) -> Steps[list[np.ndarray]]:
        at = {block.owner: i for i, block in enumerate(prompt.blocks) if block.kind is BlockKind.ITEM}
        in_order = sorted(measured, key=lambda planned: at[planned.block.owner])
        claim = Claim(in_order, 0, is_urgent=False)
        yield claim
        try:
            held = {at[planned.block.owner]: cached for planned, cached in zip(in_order, claim.pins, strict=True)}
            pinned = PinnedPrompt(prompt, held, self._cache.page_tokens)
            row = pinned.row([np.arange(len(planned.block)) for planned in in_order])
            (values,) = yield from self._selector.measure(DEVIATION, [row], [pinned.table])
        finally:
            self._cache.release(claim)
        parts = np.split(values, np.cumsum([len(planned.block) for planned in in_order])[:-1])
        of_owner = {planned.block.owner: part for planned, part in zip(in_order, parts, strict=True)}
        return [of_owner[planned.block.owner] for planned in measured]


@dataclass(frozen=True, slots=True)
class _Known:
    """What a tenant had when choosing began: listing it for every prompt would be quadratic in the catalogue."""

    items: list[Owner]
    users: list[Owner]

    def some_items(self, num: int, rng: np.random.Generator) -> list[Owner]:
        num = min(num, len(self.items))
        return [self.items[i] for i in rng.choice(len(self.items), num, replace=False)] if num else []

    def some_user(self, rng: np.random.Generator) -> Owner | None:
        return self.users[rng.integers(len(self.users))] if self.users else None


def _of(tenant: str, owners: Sequence[Owner]) -> list[Owner]:
    return [owner for owner in owners if owner.tenant == tenant]

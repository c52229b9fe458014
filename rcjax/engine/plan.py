"""A request as a prompt, and its blocks made resident."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from rcjax.cache import CachedBlock
from rcjax.cache.semantic import Match
from rcjax.engine.arm import Arm
from rcjax.engine.assembly import Row
from rcjax.engine.block_cache import BlockCache
from rcjax.engine.selector import Resident
from rcjax.engine.semantic_history import SemanticHistories
from rcjax.prompt import Block, BlockKind, History, Prompt
from rcjax.request import RecommendRequest, TokenCounts


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A request as a prompt, and how long it took to make."""

    request: RecommendRequest
    arm: Arm
    prompt: Prompt
    item_ids: tuple[str, ...]
    plan_s: float

    def cacheable(self) -> dict[int, Block]:
        """The blocks that this arm takes from the cache, by index."""
        return {i: block for i, block in enumerate(self.prompt.blocks) if block.kind in self.arm.reuse.kinds}


@contextmanager
def resident(
    plans: Sequence[Plan], cache: BlockCache, semantic: SemanticHistories | None
) -> Iterator[tuple[list[Resident], list[int]]]:
    """The plans' prompts with their cached blocks, for the length of a `with`.

    Also yields how many tokens were computed for each. Where the arm says so, a history that is not in `cache` has
    what the `semantic` pool lends it, in pages of its own; one that it has nothing for is left to the pass. Raises
    `ResourceExhaustedError`, leaving nothing pinned, when the cache cannot hold all of it at once.
    """
    matches = [_matches(plan, semantic) for plan in plans]
    blocks = [
        block
        for plan, matched in zip(plans, matches, strict=True)
        for i, block in plan.cacheable().items()
        if i not in matched
    ]
    with ExitStack() as stack:
        found = iter(zip(*stack.enter_context(cache.resident(blocks)), strict=True))
        residents, num_built = [], []
        for plan, matched in zip(plans, matches, strict=True):
            held: dict[int, CachedBlock] = {}
            num = 0
            for i, block in plan.cacheable().items():
                if i not in matched:
                    held[i], num_tokens = next(found)
                    num += num_tokens
                elif semantic and matched[i].taken.any():
                    held[i] = stack.enter_context(semantic.pages(block, matched[i]))
            unmatched = {i: match.fresh_offsets for i, match in matched.items() if i in held}
            residents.append(Resident(replace(plan.prompt, has_exact_history=not unmatched), held, unmatched))
            num_built.append(num)
        yield residents, num_built


def _matches(plan: Plan, semantic: SemanticHistories | None) -> dict[int, Match]:
    """What the pool has for the plan's history, where that is asked for."""
    if semantic is None or plan.arm.history is History.EXACT:
        return {}
    histories = {i: block for i, block in plan.cacheable().items() if block.kind is BlockKind.HISTORY}
    return {i: match for i, block in histories.items() if (match := semantic.match(block)) is not None}


def token_counts(resident: Resident, row: Row, num_built: int, num_probed: int) -> TokenCounts:
    """Where the tokens of a row came from; those that the semantic pool had no KV for are fresh, not selected."""
    num_selected = row.num_selected - resident.num_unmatched
    lent = [row.sources[index] for index in resident.unmatched]
    return TokenCounts(
        cached=row.num_cached,
        selected=num_selected,
        fresh=row.num_fresh - num_selected,
        built=num_built,
        probed=num_probed,
        semantic=sum(source.num_cached - len(source.selected) for source in lent),
    )

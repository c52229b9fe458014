"""Plans and blocks on their way to a host: a request, and the tokens of the blocks that it is made of."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32

from rcjax.cache import BlockKeys
from rcjax.engine.generation import Sampling
from rcjax.engine.plan import Plan, PlannedBlock
from rcjax.engine.planner import Planner
from rcjax.prompt import Block, BlockKind, Owner
from rcjax.request import RecommendRequest


@dataclass(frozen=True, slots=True, eq=False)
class BlocksSent:
    """Items and histories as they are cached; `token_ids` has theirs one after another, so many as `lens` says."""

    kinds: tuple[BlockKind, ...]
    owners: tuple[Owner, ...]
    lens: tuple[int, ...]
    token_ids: Int32[np.ndarray, "T"]

    @classmethod
    def of(cls, blocks: Sequence[PlannedBlock]) -> "BlocksSent":
        ids = [one.block.token_ids for one in blocks]
        return cls(
            kinds=tuple([one.block.kind for one in blocks]),
            owners=tuple([one.block.owner for one in blocks]),
            lens=tuple(map(len, ids)),
            token_ids=np.concatenate(ids) if ids else np.zeros(0, np.int32),
        )

    def planned(self, start: int, keys: BlockKeys) -> list[PlannedBlock]:
        """The blocks, which stand at `start`, right after the instruction; their keys are made of what came."""
        blocks, at = [], 0
        for kind, owner, length in zip(self.kinds, self.owners, self.lens, strict=True):
            ids = self.token_ids[at : at + length]
            at += length
            if kind is BlockKind.INSTRUCTION:
                blocks.append(PlannedBlock(Block(kind, ids, 0), keys.instruction))
            else:
                blocks.append(PlannedBlock(Block(kind, ids, start, owner=owner), keys.key(kind, owner, ids)))
        return blocks


@dataclass(frozen=True, slots=True, eq=False)
class PlanSent:
    """A plan: its host lays the prompt out again, as the same planner over the same blocks makes the same of them."""

    request: RecommendRequest
    blocks: BlocksSent  # the history, and the candidates
    version: int
    plan_s: float

    @classmethod
    def of(cls, plan: Plan) -> "PlanSent":
        return cls(plan.request, BlocksSent.of((plan.history, *plan.items)), plan.version, plan.plan_s)

    def planned(self, planner: Planner) -> Plan:
        history, *items = self.blocks.planned(len(planner.builder.instruction_ids), planner.keys)
        return planner.plan_blocks(self.request, history, items, self.version, planner.now_s() - self.plan_s)


@dataclass(frozen=True, slots=True, eq=False)
class TextSent:
    """A plain text that is to be continued; nothing of a library is in it."""

    token_ids: Int32[np.ndarray, "T"]
    version: None = None


@dataclass(frozen=True, slots=True, eq=False)
class GenerationSent:
    """What is to be continued, and how."""

    source: PlanSent | TextSent
    sampling: Sampling

    @classmethod
    def of(cls, source: Plan | Block, sampling: Sampling) -> "GenerationSent":
        sent = TextSent(source.token_ids) if isinstance(source, Block) else PlanSent.of(source)
        return cls(sent, sampling)

    def planned(self, planner: Planner) -> Plan | Block:
        if isinstance(self.source, TextSent):
            return Block(BlockKind.TASK, self.source.token_ids, 0)
        return self.source.planned(planner)

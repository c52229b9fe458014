"""The self-test of a start-up: on every slice, what is ranked from cached blocks is what full recompute ranks."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from rcjax.catalog.types import Event, Item
from rcjax.config import Settings
from rcjax.engine.arm import Arm
from rcjax.engine.assembly import Row, assemble
from rcjax.engine.cost import Program
from rcjax.engine.full_batch import full_batch
from rcjax.engine.plan import Plan
from rcjax.engine.planner import Planner
from rcjax.engine.shape import Shape
from rcjax.engine.worker import SliceWorker
from rcjax.errors import InvalidRequestError, RcjaxError
from rcjax.prompt import BlockKind, History, Layout, PromptBuilder, Reuse
from rcjax.request import EngineInfo, RecommendRequest
from rcjax.serving.slices import SliceParts, arm_of

GOLDEN = RecommendRequest(
    candidates=(Item("golden-1", "Tea mug"), Item("golden-2", "Oak desk"), Item("golden-3", "Red hat")),
    history=(Event("golden-4", "Tea pot", rating=5.0), Event("golden-5", "Lamp", rating=2.0)),
)
_ROUNDED_TO = 128  # fresh tokens of the shape that is compiled where none holds the whole prompt
_TIMEOUT_S = 600.0  # of one answer
_PREFIX_ARM = "self-test"

# The largest difference of two scores, as a share of the largest score but at least of 1. SmolLM2 has 8e-6, 8e-2, 2e-2
# and 1e-1 of these; a larger model rounds more. In 16 bits and fewer that finds gross faults only, such as KV of zeros.
TOLERANCES = {"float32": 1e-3, "bfloat16": 2.5e-1, "int8": 1e-1, "float8_e4m3fn": 3.5e-1}


class SelfTestError(RcjaxError):
    """This engine would rank wrongly: the cached path and full recompute disagree."""


@dataclass(frozen=True, slots=True)
class _Golden:
    """The golden request as an arm has it, and the whole prompt as one row with its shape."""

    arm: str
    plan: Plan
    row: Row
    shape: Shape


class SelfTest:
    """Compares, for each arm whose cached blocks are all exact, the scores of the golden request.

    They are those of the arm by a slice's own worker, with blocks that it builds and reads back from its pages, and
    those of one pass over the whole prompt that reads no page. An arm that corrects, borrows or approximates has other
    scores by intent. Where there is no exact arm the default one is taken with `reuse: prefix`. To be made before
    compilations are counted, as it compiles a shape for the whole prompt where the settings have none.
    """

    def __init__(
        self, settings: Settings, parts: SliceParts, planner: Planner, info: EngineInfo, builder: PromptBuilder
    ):
        self._parts = parts
        self._versions = planner.library.versions
        self._tolerance = max(TOLERANCES[settings.kv_dtype(parts.model.dtype)], TOLERANCES[parts.model.dtype])
        self.untested: dict[str, str] = {}  # arms that no shape holds, and why
        arms: dict[str, Arm] = {name: arm_of(arm) for name, arm in settings.arms.items()}
        default = arms[settings.default_arm]
        arms[_PREFIX_ARM] = replace(default, reuse=Reuse.PREFIX, history=History.EXACT)
        golden_planner = Planner(
            builder,
            planner.library,
            parts.keys,
            arms,
            replace(info, arms=tuple(arms)),
            parts.rank_shapes,
            max_len=parts.model.config.max_len,
            max_block_pages=parts.max_block_pages,
        )
        exact = [name for name, arm in arms.items() if name != _PREFIX_ARM and is_exact(arm)]
        self._goldens = self._planned(golden_planner, exact) or self._planned(golden_planner, [_PREFIX_ARM])

    @property
    def arms(self) -> list[str]:
        """Those that are compared."""
        return [golden.arm for golden in self._goldens]

    def run(self, workers: Sequence[SliceWorker]) -> None:
        """Compares on each slice, whose workers have started; `SelfTestError` names the first that differs."""
        for golden in self._goldens:
            expected = [worker.call(partial(self._recomputed, golden)) for worker in workers]
            answers = [worker.submit(golden.plan, arrival_s=0.0) for worker in workers]
            for index, (answer, scores) in enumerate(zip(answers, expected, strict=True)):
                by_id = {ranked.item_id: ranked.score for ranked in answer.result(_TIMEOUT_S).ranking}
                found = np.array([by_id[item_id] for item_id in golden.plan.item_ids])
                self._compare(golden.arm, index, found, scores.result(_TIMEOUT_S))
        self._forget(workers)

    def close(self) -> None:
        """Ends what the golden plans read of the library."""
        for golden in self._goldens:
            self._versions.end_read(golden.plan.version)
        self._goldens = []

    def _planned(self, planner: Planner, arms: Sequence[str]) -> list["_Golden"]:
        """The arms that some shape holds the golden request of."""
        goldens = []
        for name in arms:
            try:
                plan = planner.plan(replace(GOLDEN, arm=name))
            except InvalidRequestError as error:
                self.untested[name] = error.message
                continue
            row = Row(plan.prompt.blocks, {}, plan.prompt.readouts, self._parts.page_tokens)
            goldens.append(_Golden(name, plan, row, self._whole_shape(row)))
        return goldens

    def _whole_shape(self, row: Row) -> Shape:
        """A compiled shape that holds the whole prompt: one of the settings', else one that is compiled for it."""
        with suppress(InvalidRequestError):
            return self._parts.rank_shapes.fit([row.size])
        shape = Shape(-(-row.size.fresh_tokens // _ROUNDED_TO) * _ROUNDED_TO, 0)
        batch = full_batch(shape, self._parts.page_tokens, self._parts.num_reads)
        self._parts.programs.compile_rank(Program("rank", shape), batch)
        return shape

    def _recomputed(self, golden: _Golden, worker: SliceWorker) -> np.ndarray:
        """Scores of a pass over the whole prompt, between two steps of a worker."""
        batch = assemble([golden.row], [[]], golden.shape, self._parts.page_tokens, self._parts.num_reads)
        logits = worker.cache.executor.rank(batch, golden.shape).result()
        return self._parts.scorer.scores(logits[0], golden.plan.arm.scoring, len(golden.plan.item_ids))

    def _compare(self, arm: str, index: int, found: np.ndarray, expected: np.ndarray) -> None:
        difference = float(np.abs(found - expected).max())
        limit = self._tolerance * max(1.0, float(np.abs(expected).max()))
        if not difference <= limit:  # NaN is none either
            raise SelfTestError(
                f"the self-test failed: in arm {arm!r}, on slice {index}, cached blocks score {_listed(found)}, full "
                f"recompute {_listed(expected)}; they differ by {difference:.3g}, over the {limit:.3g} that "
                f"{self._parts.programs.format.dtype} KV may; this engine is not served. Try `attention: reference`, "
                "another `cache.kv_dtype`, or another machine"
            )

    def _forget(self, workers: Sequence[SliceWorker]) -> None:
        """Drops the golden blocks from every slice."""
        for golden in self._goldens:
            blocks = [planned.block for planned in golden.plan.wanted]
            names = [(block.kind, block.owner) for block in blocks if block.kind is not BlockKind.INSTRUCTION]
            for dropped in [worker.drop(names, golden.plan.version) for worker in workers]:
                dropped.result(_TIMEOUT_S)


def is_exact(arm: Arm) -> bool:
    """Whether every block that the arm takes from the cache is as its prompts would compute it."""
    has_exact_items = BlockKind.ITEM not in arm.reuse.kinds or arm.layout is Layout.PARALLEL
    return arm.reuse is not Reuse.NONE and has_exact_items and arm.history is History.EXACT


def _listed(scores: np.ndarray) -> str:
    return ", ".join(f"{score:.4g}" for score in scores)

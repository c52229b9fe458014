"""The planner: from a request or a write to a plan, before it waits anywhere. No JAX here."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rcjax.cache import BlockKeys
from rcjax.catalog.types import Item
from rcjax.engine.arm import Arm
from rcjax.engine.assembly import Row
from rcjax.engine.generation_planner import GenerationPlan, GenerationPlanner
from rcjax.engine.library import Library
from rcjax.engine.library_blocks import LibraryBlocks, unknown_user
from rcjax.engine.plan import Plan, PlannedBlock, Stored, WritePlan
from rcjax.engine.shape import RowSize, ShapeSet
from rcjax.engine.source_plan import SourcePlanner
from rcjax.engine.validation import candidate_field, ids_of, validate_request
from rcjax.engine.write_planner import WritePlanner
from rcjax.errors import InvalidRequestError, NotFoundError
from rcjax.prompt import BlockKind, FittingTexts, Owner, Prompt, PromptBuilder
from rcjax.request import EngineInfo, GenerateRequest, RecommendRequest, Write


class Planner:
    """Plans requests and writes over one library. Any thread may call it, several at the same time."""

    def __init__(
        self,
        builder: PromptBuilder,
        library: Library,
        keys: BlockKeys,
        arms: Mapping[str, Arm],
        info: EngineInfo,
        rank_shapes: ShapeSet,
        *,
        max_len: int,
        max_block_pages: int,
        generate_shapes: ShapeSet | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ):
        """`max_len` is the model's context; `max_block_pages` what a pool can hold, the instruction included."""
        self.builder = builder
        self.library = library
        self.keys = keys
        self._instruction = PlannedBlock(builder.instruction_block(), keys.instruction)
        self._arms = dict(arms)
        self._info = info
        self._limits = limits = info.limits
        self._rank_shapes = rank_shapes
        self._max_len = max_len
        self._max_block_pages = max_block_pages
        self._clock = clock
        self._texts = FittingTexts(builder, info.max_item_tokens, info.max_history_tokens)
        self._blocks = LibraryBlocks(builder, library, keys)
        self._writes = WritePlanner(
            library,
            self._blocks,
            self._texts,
            limits,
            instruction_len=len(builder.instruction_ids),
            page_tokens=info.page_tokens,
            max_block_pages=max_block_pages,
        )
        self._generations = GenerationPlanner(
            self.plan,
            builder.text_block,
            library.versions,
            generate_shapes,
            limits,
            page_tokens=info.page_tokens,
            max_len=max_len,
        )
        self._sources = {name: SourcePlanner(arm, info.page_tokens) for name, arm in arms.items()}

    def plan(self, request: RecommendRequest) -> Plan:
        """The plan of a request; raises an `RcjaxError` for one that cannot be served.

        The plan's version is alive until the caller ends it (`library.versions.end_read`).
        """
        start_s = self._clock()
        version = self.library.versions.begin_read()  # before anything is looked up
        try:
            return self._plan(request, version, start_s)
        except BaseException:
            self.library.versions.end_read(version)
            raise

    def plan_blocks(
        self,
        request: RecommendRequest,
        history: PlannedBlock,
        items: Sequence[PlannedBlock],
        version: int,
        start_s: float,
    ) -> Plan:
        """The plan of a request whose arm is filled in and whose blocks were found in `version` of a library.

        That may be another planner's library, and the blocks have come from there. `start_s` is on this one's clock.
        """
        arm = self._arms[request.arm]
        prompt = self.builder.build(history.block, [item.block for item in items], arm.layout, arm.scoring)
        cached, num_tokens, block_pages = self._count(prompt, arm)
        self._check_size(prompt, num_tokens, block_pages)
        sources = self._sources[request.arm].sources(prompt, cached)
        row = None
        if self._sources[request.arm].is_final:
            row = Row(prompt.blocks, sources, prompt.readouts, self._info.page_tokens)
            size = row.size
        else:
            num_fresh = num_tokens - sum(source.num_cached - len(source.selected) for source in sources.values())
            size = RowSize(num_fresh, self._sources[request.arm].num_pages(prompt, sources))
        cost = self._rank_shapes.row_cost(size)
        return Plan(
            request=request,
            arm=arm,
            prompt=prompt,
            item_ids=ids_of(request),
            history=history,
            items=tuple(items),
            cached=cached,
            wanted=self._wanted(arm, history, items),
            row=row,
            size=size,
            block_pages=block_pages,
            cost_s=cost.alone_s,
            share_s=cost.share_s,
            full_pass_s=cost.full_pass_s,
            version=version,
            plan_s=self._clock() - start_s,
        )

    def plan_generation(self, request: GenerateRequest) -> GenerationPlan:
        """As `plan`, for what is to be continued."""
        return self._generations.plan(request)

    def now_s(self) -> float:
        """The time on the clock that plans are timed by."""
        return self._clock()

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text that tokens spell."""
        return self.builder.decode(token_ids)

    def plan_write(self, write: Write) -> WritePlan:
        """The plan of a write; changes nothing. Writes of one user are to be planned and swapped one at a time.

        The plan's version is alive until the caller ends it (`library.versions.end_write`).
        """
        return self._writes.plan(write)

    def item_block(self, owner: Owner) -> PlannedBlock | None:
        """An item of the library."""
        stored = self.library.item(owner.tenant, owner.id)
        return None if stored is None else self._blocks.item(owner, stored)

    def history_block(self, owner: Owner) -> PlannedBlock | None:
        """The history of a user of the library."""
        stored = self.library.user(owner.tenant, owner.id)
        return None if stored is None else self._blocks.history(owner, stored)

    def _plan(self, request: RecommendRequest, version: int, start_s: float) -> Plan:
        validate_request(request, self._info, self._limits)
        if not request.arm:
            request = replace(request, arm=self._info.default_arm)
        used: list[Stored[Any]] = []
        history = self._request_history(request, used)
        items = [self._candidate(request.tenant, candidate, i, used) for i, candidate in enumerate(request.candidates)]
        self.library.note_used(used)
        return self.plan_blocks(request, history, items, version, start_s)

    def _count(self, prompt: Prompt, arm: Arm) -> tuple[tuple[int, ...], int, int]:
        """The blocks that the arm takes from the cache, the prompt's tokens, and the pages of these blocks."""
        kinds, page_tokens = arm.reuse.kinds, self._info.page_tokens
        cached, num_tokens, num_pages = [], 0, 0
        for index, block in enumerate(prompt.blocks):
            length = len(block.token_ids)
            num_tokens += length
            if block.kind in kinds:
                cached.append(index)
                num_pages -= -length // page_tokens
        return tuple(cached), num_tokens, num_pages

    def _check_size(self, prompt: Prompt, num_tokens: int, block_pages: int) -> None:
        # Positions never exceed the number of tokens, so most prompts need no closer look.
        if num_tokens > self._max_len and (length := max(block.end for block in prompt.blocks)) > self._max_len:
            raise InvalidRequestError(
                f"the prompt has {length} positions, over the model's context of {self._max_len}; send fewer candidates"
            )
        if block_pages > self._max_block_pages:
            raise InvalidRequestError(
                f"the request's blocks need {block_pages} pages of the cache, which has {self._max_block_pages}; send "
                "fewer candidates or configure a larger cache.pool_bytes"
            )

    def _wanted(self, arm: Arm, history: PlannedBlock, items: Sequence[PlannedBlock]) -> tuple[PlannedBlock, ...]:
        """The blocks of `arm.reuse.kinds`, in prompt order."""
        kinds = arm.reuse.kinds
        wanted = [self._instruction] if BlockKind.INSTRUCTION in kinds else []
        if BlockKind.HISTORY in kinds and len(history.block.token_ids):
            wanted.append(history)
        if BlockKind.ITEM in kinds:
            wanted += items
        return tuple(wanted)

    def _candidate(self, tenant: str, candidate: str | Item, index: int, used: list[Stored[Any]]) -> PlannedBlock:
        item_id = candidate if isinstance(candidate, str) else candidate.item_id
        stored = self.library.item(tenant, item_id)
        if stored is not None and (isinstance(candidate, str) or stored.content == candidate):
            used.append(stored)
            return stored.block or self._blocks.item(Owner(tenant, item_id), stored)
        field = candidate_field(index, candidate)
        if isinstance(candidate, str):
            raise NotFoundError(f"item {candidate!r} is not in the catalogue; put it or send its text", field=field)
        ids = self._texts.item_ids(candidate, field)
        return self._blocks.make_inline(BlockKind.ITEM, ids, Owner(tenant, item_id))

    def _request_history(self, request: RecommendRequest, used: list[Stored[Any]]) -> PlannedBlock:
        """The history that a request is ranked for: its own, where given, else the stored one."""
        owner = Owner(request.tenant, request.user_id)
        stored = self.library.user(owner.tenant, owner.id)
        if request.history is None:
            if stored is None:
                raise unknown_user(owner.id)
            used.append(stored)
            return stored.block or self._blocks.history(owner, stored)
        if stored is not None and stored.content == request.history:
            used.append(stored)
            return stored.block or self._blocks.history(owner, stored)
        ids = self._texts.history(request.history, "history.events").token_ids
        if stored is not None:
            own = stored.block or self._blocks.history(owner, stored)
            if own.block.token_ids.tobytes() == ids.tobytes():
                used.append(stored)
                return own
        return self._blocks.make_inline(BlockKind.HISTORY, ids, owner)

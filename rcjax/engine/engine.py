"""The engine: ranks candidates for users, from cached blocks, on one slice."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from rcjax.catalog.types import Event, Item, User
from rcjax.engine.arm import Arm
from rcjax.engine.assembly import Row, assemble
from rcjax.engine.block_cache import BlockCache
from rcjax.engine.executor import Slice
from rcjax.engine.generation import Generator, Sampling
from rcjax.engine.library import Library
from rcjax.engine.offline import OrderChooser
from rcjax.engine.plan import Plan, resident, token_counts
from rcjax.engine.selector import Selector
from rcjax.engine.semantic_history import SemanticHistories
from rcjax.engine.shape import ShapeSet
from rcjax.errors import InvalidRequestError, RcjaxError, ResourceExhaustedError
from rcjax.model.scoring import Scorer
from rcjax.prompt import Prompt, PromptBuilder
from rcjax.request import (
    EngineInfo,
    EngineStats,
    RankedItem,
    RecommendRequest,
    RecommendResult,
    StageTimes,
    TokenCounts,
)


class RecommendEngine:
    """Implements `rcjax.request.Engine` over one slice; one thread makes every call.

    Built by `rcjax.serving.startup`, which also compiles its programs.
    """

    def __init__(
        self,
        slice_: Slice,
        cache: BlockCache,
        builder: PromptBuilder,
        library: Library,
        rank_shapes: ShapeSet,
        generator: Generator | None,
        arms: dict[str, Arm],
        info: EngineInfo,
        count_compilations: Callable[[], int],
        semantic: SemanticHistories | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self.slice = slice_
        self.cache = cache
        self.builder = builder
        self.library = library
        self.rank_shapes = rank_shapes
        self.selector = Selector(slice_, rank_shapes, info.page_tokens)
        self._generator = generator
        is_offline = any(not measure.is_probe for arm in arms.values() for measure in arm.selection.measures)
        self._orders = OrderChooser(self.selector, cache, builder, library) if is_offline else None
        self._order_seed: int | None = None
        self._semantic = semantic
        self._scorer = Scorer.of(builder)
        self._arms = arms
        self._info = info
        self._count_compilations = count_compilations
        self._clock = clock
        self._num_requests = 0
        self._num_failed = 0
        self._tokens = TokenCounts()

    def recommend(self, requests: Sequence[RecommendRequest]) -> list[RecommendResult | RcjaxError]:
        """Ranks each request on its own: a bad one yields its error in its place and harms no other."""
        results: list[RecommendResult | RcjaxError | None] = [None] * len(requests)
        plans: dict[int, Plan] = {}
        for i, request in enumerate(requests):
            try:
                plans[i] = self._plan(request)
            except RcjaxError as error:
                results[i] = error
        for group in self._group(plans):
            for i, result in zip(group, self._rank_group([plans[i] for i in group]), strict=True):
                results[i] = result
        done = [result for result in results if result is not None]
        self._count(done)
        return done

    def put_items(self, items: Sequence[Item]) -> int:
        """Adds or replaces items and builds their KV; returns how many blocks had to be computed."""
        blocks = [self.library.checked_item(item, f"items[{i}]") for i, item in enumerate(items)]
        num_computed = self.cache.fill(blocks)
        self.library.items.update((item.item_id, item) for item in items)
        if self._orders and self._order_seed is not None:
            self._orders.choose(blocks, self._order_seed)
        return num_computed

    def choose_orders(self, seed: int = 0) -> int:
        """Works out which tokens of each item the `offline` policy shall select; returns for how many items.

        Nothing happens where no arm has that policy. Call it once items and users are there, as it samples prompts
        of these; from then on `put_items` does the same for what it puts. Items that have an order keep it.
        """
        if self._orders is None:
            return 0
        self._order_seed = seed
        blocks = [self.library.checked_item(item, "item") for item in self.library.items.values()]
        return self._orders.choose(blocks, seed)

    def build_semantic_pool(self, seed: int = 0) -> int:
        """Builds the pool that arms with `history: semantic` borrow from; returns the number of its prototypes.

        Nothing happens where no arm has it. Call it once users are there, as it samples these, and again after
        deletions: a deleted user's traces stay in it until then. Until the first call such arms compute histories.
        """
        return 0 if self._semantic is None else self._semantic.build(seed)

    def delete_items(self, item_ids: Sequence[str]) -> int:
        """Forgets items and frees their KV; returns how many existed."""
        found = [item_id for item_id in dict.fromkeys(item_ids) if item_id in self.library.items]
        for item_id in found:
            del self.library.items[item_id]
            self.cache.drop(self.library.item_kind, item_id)
        return len(found)

    def put_user(self, user: User) -> None:
        """Adds or replaces a user and builds the KV of their history."""
        events = self.library.recent_events(user)
        with self.cache.resident([self.library.events_block(user.user_id, events)]):
            self.library.store_events(user.user_id, events)

    def append_events(self, user_id: str, events: Sequence[Event]) -> None:
        """Appends to a known user's history, extending its cached KV; `NotFoundError` for another."""
        kept = self.library.with_appended(user_id, events)
        self.cache.grow(self.library.history(user_id), self.library.events_block(user_id, kept))
        self.library.store_events(user_id, kept)

    def delete_user(self, user_id: str) -> bool:
        """Forgets a user and frees their KV; whether the user existed. See `build_semantic_pool`."""
        if self._semantic is not None:
            self._semantic.note_deleted(user_id)
        self.cache.drop(self.library.history_kind, user_id)
        return self.library.delete_user(user_id)

    def info(self) -> EngineInfo:
        return self._info

    def stats(self) -> EngineStats:
        pool = self.cache.stats()
        return EngineStats(
            num_items=len(self.library.items),
            num_users=self.library.num_users,
            num_requests=self._num_requests,
            num_failed=self._num_failed,
            num_compilations=self._count_compilations(),
            num_hits=pool.num_hits,
            num_misses=pool.num_misses,
            num_evictions=pool.num_evictions,
            pages_total=pool.pages_total,
            pages_used=pool.pages_used,
            pool_bytes=self.slice.pages.num_bytes,
            tokens=self._tokens,
        )

    def prompt(self, request: RecommendRequest) -> Prompt:
        """The prompt that a request becomes, as `recommend` would build it."""
        return self._plan(request).prompt

    def generate(self, prompt: str | RecommendRequest, sampling: Sampling = Sampling()) -> list[int]:  # noqa: B008
        """Token ids that continue a text, or the prompt of a request (from cached blocks, as its arm says).

        Raises `InvalidRequestError` where no `generate` shapes are configured or none holds the prompt.
        """
        if self._generator is None:
            raise InvalidRequestError("this engine has no generate shapes; configure shapes.generate")
        if isinstance(prompt, str):
            block = self.builder.text_block(prompt)
            return self._generator.generate(Row([block], {}), sampling)
        plan = self._plan(prompt)
        with resident([plan], self.cache, self._semantic) as (residents, _):
            (row,), _ = self.selector.rows(plan.arm.selection, residents)
            return self._generator.generate(row, sampling)

    # ---- the life of a request: plan, group, make resident, select, extend, read out

    def _plan(self, request: RecommendRequest) -> Plan:
        start = self._clock()
        name = request.arm or self._info.default_arm
        if name not in self._arms:
            raise InvalidRequestError(f"arm={name!r} is not one of {sorted(self._arms)}", field="arm")
        arm = self._arms[name]
        history = self.library.request_history(request)
        items = self.library.request_items(request)
        item_ids = tuple(c if isinstance(c, str) else c.item_id for c in request.candidates)
        if not 0 <= request.top_k <= len(items):
            raise InvalidRequestError(
                f"top_k={request.top_k} must be 0 (all) to the number of candidates, {len(items)}", field="top_k"
            )
        prompt = self.builder.build(history, items, arm.layout, arm.scoring)
        return Plan(replace(request, arm=name), arm, prompt, item_ids, self._clock() - start)

    def _group(self, plans: dict[int, Plan]) -> list[list[int]]:
        """Requests of the same arm go together, as many as the widest shape takes."""
        widest = max(shape.batch for shape in self.rank_shapes)
        by_arm: dict[str, list[int]] = {}
        for i, plan in plans.items():
            by_arm.setdefault(plan.request.arm, []).append(i)
        return [group[at : at + widest] for group in by_arm.values() for at in range(0, len(group), widest)]

    def _rank_group(self, plans: Sequence[Plan]) -> list[RecommendResult | RcjaxError]:
        try:
            return list(self._rank(plans))
        except (InvalidRequestError, ResourceExhaustedError) as error:
            if len(plans) == 1:
                return [error]
            return [result for plan in plans for result in self._rank_group([plan])]

    def _rank(self, plans: Sequence[Plan]) -> list[RecommendResult]:
        start = self._clock()
        with resident(plans, self.cache, self._semantic) as (residents, built):
            found = self._clock()
            rows, probed = self.selector.rows(plans[0].arm.selection, residents)
            selected = self._clock() if any(probed) else found
            shape = self.rank_shapes.fit(
                max(row.num_fresh for row in rows), max(row.num_pages for row in rows), len(rows)
            )
            batch = assemble(rows, shape, self._info.page_tokens, self._info.max_candidates)
            assembled = self._clock()
            logits = self.slice.rank(batch)
        extended = self._clock()
        results = []
        for b, (plan, row) in enumerate(zip(plans, rows, strict=True)):
            ranking = self._read_out(plan, logits[b])
            end = self._clock()
            plan_s = plan.plan_s + assembled - selected
            times = StageTimes(
                plan_ms=plan_s * 1e3,
                build_ms=(found - start) * 1e3,
                probe_ms=(selected - found) * 1e3,
                extend_ms=(extended - assembled) * 1e3,
                readout_ms=(end - extended) * 1e3,
                ttft_ms=(plan.plan_s + end - start) * 1e3,
            )
            tokens = token_counts(residents[b], row, built[b], probed[b])
            results.append(RecommendResult(ranking, tokens, times, plan.request.arm))
        return results

    def _read_out(self, plan: Plan, logits: np.ndarray) -> tuple[RankedItem, ...]:
        scores = self._scorer.scores(logits, plan.arm.scoring, len(plan.item_ids))
        if not np.isfinite(scores).all():
            raise RuntimeError(f"the model gave non-finite scores for {plan.item_ids}: {scores}")
        order = np.argsort(-scores, kind="stable")[: plan.request.top_k or None]
        return tuple(RankedItem(plan.item_ids[i], float(scores[i]), rank) for rank, i in enumerate(order, start=1))

    def _count(self, results: Sequence[RecommendResult | RcjaxError]) -> None:
        self._num_requests += len(results)
        self._num_failed += sum(isinstance(result, RcjaxError) for result in results)
        for result in results:
            if isinstance(result, RecommendResult):
                self._tokens += result.tokens

"""A pass of real requests as it is served, and its parts alone."""

import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from functools import partial
from typing import Any

import jax
import numpy as np
from roofline import attention_work, linear_work, seconds

from rcjax.config import Settings
from rcjax.engine.assembly import Row, assemble
from rcjax.engine.block_cache import BlockCache
from rcjax.engine.cost import Program
from rcjax.engine.executor import Executor
from rcjax.engine.programs import Programs
from rcjax.engine.ranker import Ranker
from rcjax.engine.selector import Selector
from rcjax.engine.shape import Shape
from rcjax.engine.state import RequestState, claim_of
from rcjax.kernels.selective_attention import REFERENCE, Attention
from rcjax.model.decoder import Batch
from rcjax.model.rope import rope_of
from rcjax.model.scoring import Scorer
from rcjax.model.spec import Model
from rcjax.request import RecommendRequest, RecommendResult
from rcjax.serving.local import LocalEngine
from rcjax.serving.slices import shapes_of

TIMES = ("pass_ms", "linear_ms", "attention_ms", "view_ms", "host_ms")
TOKENS = ("cached", "selected", "fresh", "prompt_len")

Sample = dict[str, Any]


def attend_to_nothing(view, q, k_new, v_new, kv, first_page):  # type: ignore[no-untyped-def]
    """Needs q, k and v, so that no projection may be left out, and reads no page."""
    groups = q.reshape(*k_new.shape[:3], -1, q.shape[3])
    return (groups + (k_new + v_new)[:, :, :, None]).reshape(q.shape)


LINEAR = Attention("nothing", lambda *layouts, **how: (), attend_to_nothing, REFERENCE.measure)


class Profiler:
    """An engine with all blocks in cache, and beside it the programs of the parts that are timed alone."""

    def __init__(self, engine: LocalEngine, wanted: Settings, model: Model):
        self._router: Any = engine.router
        self._engine = engine
        self._model = model
        executor = self._router.workers[0].cache.executor
        self._programs: Programs = executor.programs
        self._num_reads = wanted.limits.max_candidates
        self._shapes = shapes_of("rank", wanted.shapes, executor.cost)
        self._ranker = Ranker(
            executor,
            Selector(executor, self._shapes, wanted.cache.page_tokens),
            self._shapes,
            Scorer.of(self._router.planner.builder),
            page_tokens=wanted.cache.page_tokens,
            num_reads=self._num_reads,
            clock=time.monotonic,
        )
        linear = Programs(
            model.params,
            model.config,
            self._programs.format,
            num_pages=1,
            vocab_ids=self._programs.vocab_ids,
            attention=LINEAR,
        )
        self._linear = Executor(linear, model.params, executor.cost)
        attend = self._programs.attention
        view = partial(attend.view, rope=rope_of(model.config), window=model.config.sliding_window)
        self._view = jax.jit(lambda batch: view(batch.tokens, batch.pages, batch.tiles))

    def fits_batches(self, ask: RecommendRequest) -> bool:
        """Whether the shapes with several rows, which all have tiles, hold the request."""
        return all(shape.holds(self._row(ask).size) for shape in self._shapes if shape.batch > 1)

    def sample(self, asks: Sequence[RecommendRequest]) -> Sample:
        """One pass of these requests, its parts, and what they have to do."""
        rows = [self._row(ask) for ask in asks]
        shape = self._shapes.subset(lambda one: one.batch == len(rows)).fit([row.size for row in rows])
        batch = self._batch(rows, shape)
        self._prepare(batch, shape)
        results, host_ms = self._served(asks, shape)
        pass_ms = results[0].times.extend_ms
        linear_ms = 1e3 * seconds(lambda: self._linear.rank(batch, shape).result())
        view_ms = 1e3 * seconds(lambda: jax.block_until_ready(self._view(batch)))
        times = (pass_ms, linear_ms, pass_ms - linear_ms, view_ms, host_ms)
        return dict(zip(TIMES, times, strict=True)) | {
            "tokens": {kind: float(np.mean([getattr(one.tokens, kind) for one in results])) for kind in TOKENS},
            "shape": str(shape),
            "linear": linear_work(batch, self._model, len(self._programs.vocab_ids)),
            "attention": attention_work(batch, self._model, self._programs.format),
        }

    def _row(self, ask: RecommendRequest) -> Row:
        with self._router.planned(ask) as plan:
            row: Row = plan.row
        return row

    def _batch(self, rows: Sequence[Row], shape: Shape) -> Batch:
        """The pass's arrays, but that all pages are the null page: what takes them reads none."""
        size = self._programs.format.page_tokens
        tables = [[[0] * -(-source.num_cached // size) for source in row.sources.values()] for row in rows]
        return assemble(rows, tables, shape, size, self._num_reads)

    def _prepare(self, batch: Batch, shape: Shape) -> None:
        program = Program("rank", shape)
        if not self._linear.programs.has(program):
            self._linear.programs.compile_rank(program, batch)
            self._linear.rank(batch, shape).result()
            jax.block_until_ready(self._view(batch))

    def _served(self, asks: Sequence[RecommendRequest], shape: Shape) -> tuple[list[RecommendResult], float]:
        """The answers, and the host's milliseconds for each request."""
        if len(asks) == 1:
            results = full_hits(self._engine.recommend(asks))
            return results, results[0].times.ttft_ms - results[0].times.extend_ms
        # Sent one by one, requests would share passes as they happen to arrive.
        start_s = time.perf_counter()
        with ExitStack() as plans:
            states = [self._state(plans.enter_context(self._router.planned(ask))) for ask in asks]
            (answers,) = self._engine.call_workers(lambda worker: self._rank(worker.cache, states, shape))
        total_ms = (time.perf_counter() - start_s) * 1e3
        results = full_hits(answers)
        return results, (total_ms - results[0].times.extend_ms) / len(asks)

    def _state(self, plan: Any) -> RequestState:
        return RequestState(plan, time.monotonic(), None, Future(), claim_of(plan), row=plan.row)

    def _rank(self, cache: BlockCache, states: Sequence[RequestState], shape: Shape) -> Any:
        with ExitStack() as claims:
            for state in states:
                if not cache.grant(state.claim):
                    raise RuntimeError("the pool has no room for these blocks")
                claims.callback(cache.release, state.claim)
            steps = self._ranker.rank(states, shape)
            pending = next(steps)
            try:
                steps.send(pending.result())
            except StopIteration as end:
                return end.value
        raise RuntimeError("a ranking of full hits takes one pass")


def full_hits(results: Sequence[Any]) -> list[RecommendResult]:
    for result in results:
        if isinstance(result, Exception):
            raise result
        if result.tokens.built:
            raise RuntimeError(f"{result.arm} built {result.tokens.built} tokens: not a full hit")
    return list(results)

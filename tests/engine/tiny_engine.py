"""A real engine around the tiny model: settings with every arm, engines on shared programs, and ways to ask them."""

import threading
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_model import TEMPLATE as TEMPLATE
from tiny_model import tiny_model as tiny_model
from tiny_model import tiny_tokenizer as tiny_tokenizer

from rcjax.catalog.types import Event, Item
from rcjax.config import ArmSettings, CacheSettings, Limits, Settings, ShapeSettings, ShapeSize
from rcjax.engine.compilation import use_compilation_cache
from rcjax.engine.shape import Shape
from rcjax.errors import RcjaxError
from rcjax.prompt import Layout, PromptBuilder, Reuse, Scoring
from rcjax.prompt.template import load_template
from rcjax.request import RecommendRequest, RecommendResult
from rcjax.serving.local import LocalEngine
from rcjax.serving.router import Router
from rcjax.serving.slices import SliceParts, new_worker, slice_parts
from rcjax.serving.startup import engine_info, new_planner
from rcjax.serving.warm_up import warm_up

PAGE_TOKENS = 8
LIMITS = Limits(max_candidates=100, max_item_tokens=40, max_history_tokens=96)
BOUNDARY = "boundary(first=2, last=1)"
TILED = ShapeSize(fresh_tokens=64, num_pages=32, batch=8, tiles=8, tile_tokens=6, tile_pages=4)
SEQUENTIAL = {"layout": Layout.SEQUENTIAL}
PARALLEL = {"layout": Layout.PARALLEL}
SELECTIONS = {"": "none", "_boundary": BOUNDARY, "_selected": "full"}


def _arms() -> dict[str, ArmSettings]:
    """Every combination, by names such as `sequential_label_prefix` and `parallel_anchor_blocks_boundary`."""
    arms = {}
    for layout in Layout:
        for scoring in Scoring:
            for reuse in Reuse:
                for suffix, selection in SELECTIONS.items():
                    if suffix and reuse is not Reuse.BLOCKS:
                        continue
                    arm = ArmSettings(layout=layout, scoring=scoring, reuse=reuse, selection=selection)
                    arms[f"{layout}_{scoring}_{reuse}{suffix}"] = arm
    return arms


ARMS = _arms()


def arms(**wanted: str) -> list[str]:
    """The names of the arms with these settings."""
    return [name for name, arm in ARMS.items() if all(getattr(arm, key) == value for key, value in wanted.items())]


def tiny_settings(folder: Path, **changed: object) -> Settings:
    """Settings that need nothing outside `folder`; it gets the template and the compilation cache."""
    template = folder / "tiny.yaml"
    template.write_text(TEMPLATE, encoding="utf-8")
    fields: dict[str, object] = {
        "model": "tiny",
        "dtype": "float32",
        "template": str(template),
        "cache": CacheSettings(page_tokens=PAGE_TOKENS, pool_bytes=2**21),
        "limits": LIMITS,
        "arms": ARMS,
        "default_arm": "sequential_label_blocks_boundary",
        "shapes": ShapeSettings(
            rank=((64, 64), (128, 128, 2), (320, 64, 2), (448, 320), TILED),
            build=((48, 16), (128, 8)),
            generate=((1, 128), (192, 64)),
        ),
        "compilation_cache": folder / "xla",
    }
    return Settings(**(fields | changed))


class TinyEngine(LocalEngine):
    """A local engine that also shows its parts. The worker's thread owns the cache: look while nothing is under way."""

    def __init__(self, parts: SliceParts, settings: Settings, builder: PromptBuilder, num_pages: int | None):
        self.parts = parts
        self.builder = builder
        self.planner = new_planner(settings, parts, builder)
        self.library = self.planner.library
        self.worker = new_worker(settings, parts, self.planner, builder, num_pages=num_pages)
        self.cache = self.worker.cache
        self.executor = self.cache.executor
        self.directory = self.cache.directory
        router = Router(
            self.planner,
            [self.worker],
            self.library,
            engine_info(settings, parts.model, builder),
            planner_threads=1,
            count_compilations=lambda: 0,
        )
        super().__init__(router, builder.text_block)


_started: list[TinyEngine] = []


def close_all() -> None:
    """Stops every engine of this test, so that its threads end with it."""
    while _started:
        _started.pop().close()


def compiled_parts(settings: Settings) -> tuple[SliceParts, PromptBuilder]:
    """The tiny model's programs for these settings, to be lent to engines."""
    use_compilation_cache(settings.compilation_cache_dir())
    model = tiny_model()
    builder = PromptBuilder(load_template(settings.template), model.tokenizer, settings.limits.max_candidates)
    parts = slice_parts(settings, model, builder, lambda step: None)
    choose_shapes_by_size(parts)
    worker = new_worker(settings, parts, new_planner(settings, parts, builder), builder)
    warm_up(settings, parts, [worker], lambda step: None)
    return parts, builder


def choose_shapes_by_size(parts: SliceParts) -> None:
    """Not by the seconds that passes took: the order of a sum, and with it the last bit, is the shape's."""

    def seconds(shape: Shape) -> float:
        return 1e-7 * shape.batch * shape.fresh_tokens * (100 + shape.num_pages + shape.tile_pages)

    for shapes in parts.shapes.values():
        shapes.seconds = seconds


def unstarted(
    compiled: tuple[SliceParts, PromptBuilder], settings: Settings, num_pages: int | None = None
) -> TinyEngine:
    """An engine that knows only the instruction, whose other pages are full of NaN; its threads are not started.

    Integers have no NaN, but their scales do.

    `num_pages` makes its pool smaller, the null page counted.
    """
    parts, builder = compiled
    engine = TinyEngine(parts, settings, builder, num_pages)
    nothing = parts.programs.format.host_empty(parts.programs.num_pages)
    for array in jax.tree.leaves(nothing):
        array[:, 1:] = 99 if array.dtype == np.int8 else np.nan
    engine.executor.pages = jax.tree.map(jnp.asarray, nothing)
    engine.cache.build_instruction()
    return engine


def restarted(
    compiled: tuple[SliceParts, PromptBuilder], settings: Settings, *, num_pages: int | None = None
) -> TinyEngine:
    """As `unstarted`, ready to serve; `close_all` stops it."""
    engine = unstarted(compiled, settings, num_pages)
    engine.router.start()
    _started.append(engine)
    return engine


WORDS = ["red", "mug", "oak", "desk", "lamp", "wool", "hat", "iron", "pan", "jute", "rug", "tin", "box", "silk", "tie"]


def item(number: int, *, num_words: int = 3, text: str = "") -> Item:
    """Item `i<number>`, whose title is drawn from the number; `text` changes its description."""
    rng = np.random.default_rng(number)
    return Item(f"i{number}", " ".join(rng.choice(WORDS, num_words)), description=text)


def event(number: int, *, num_words: int = 2) -> Event:
    rng = np.random.default_rng(10_000 + number)
    title = " ".join(rng.choice(WORDS, num_words))
    return Event(f"i{number}", title, rating=float(rng.integers(1, 6)), timestamp_s=number)


def recommend(engine, candidates, user_id="u", arm="parallel_anchor_blocks", **fields):
    (result,) = engine.recommend([RecommendRequest(tuple(candidates), user_id, arm=arm, **fields)])
    return result


def scores(engine, *args, **fields):
    result = recommend(engine, *args, **fields)
    if isinstance(result, RcjaxError):
        raise result
    return {ranked.item_id: ranked.score for ranked in result.ranking}


def together(engine: TinyEngine, requests: Sequence[RecommendRequest]) -> list[RecommendResult | RcjaxError]:
    """As `engine.recommend`, but all are handed over before the worker looks at any: they can share passes."""
    is_held, handed_over = threading.Event(), threading.Event()
    engine.worker.call(lambda worker: (is_held.set(), handed_over.wait()))
    assert is_held.wait(60)  # else it might take the first request along with the call
    futures = engine.router.submit_planned(requests)
    handed_over.set()
    return [future.exception() or future.result() for future in futures]


def close_to(expected):
    return {key: pytest.approx(value, abs=1e-5) for key, value in expected.items()}


def assert_idle(engine: TinyEngine) -> None:
    """Nothing but the instruction is pinned, nobody is waited for, and the books add up."""

    def check(worker) -> int:
        worker.cache.directory.check_integrity()
        return worker.cache.directory.stats().pages_pinned

    assert engine.call_workers(check) == [len(engine.cache.instruction_pages)]
    assert engine.cache.num_claims == 0

"""A real engine around a tiny random model: three layers, grouped-query attention, a byte-level tokenizer of its own.

The weights are scaled so that attention is far from uniform: a token too many or too few in a mask moves every score
by much more than the tolerances of the tests.
"""

import threading
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rcjax.catalog.types import Event, Item
from rcjax.config import ArmSettings, CacheSettings, Limits, Settings, ShapeSettings
from rcjax.engine.compilation import use_compilation_cache
from rcjax.errors import RcjaxError
from rcjax.kernels.kv import KVPages
from rcjax.model.config import ModelConfig
from rcjax.model.decoder import abstract_params
from rcjax.model.spec import Model
from rcjax.model.tokenizer import Tokenizer
from rcjax.prompt import Layout, PromptBuilder, Reuse, Scoring
from rcjax.prompt.template import load_template
from rcjax.request import RecommendRequest, RecommendResult
from rcjax.serving.local import LocalEngine
from rcjax.serving.router import Router
from rcjax.serving.slices import SliceParts, compile_slice, new_worker, slice_parts
from rcjax.serving.startup import engine_info, new_planner

PAGE_TOKENS = 8
LIMITS = Limits(max_candidates=100, max_item_tokens=40, max_history_tokens=96)
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEMPLATE = r"""
name: tiny
version: 1
chat: true
instruction: "Rank for the shopper."
history:
  open: "Bought:\n"
  event: "- {{ title }}{% if rating is not none %} {{ '%g' % rating }}{% endif %}\n"
  empty: "- none\n"
item: " {{ title }}{% if description %}, {{ description }}{% endif %}"
label:
  sequential: {before_item: "\n{{ label }}:", task: "\nBest?"}
  parallel: {after_item: "\n={{ label }}", task: "\nBest?"}
anchor:
  sequential: {before_item: "\n*", after_item: "\nBuy:"}
  parallel: {after_item: "\nBuy:"}
  positive: " yes"
  negative: " no"
"""
BOUNDARY = "boundary(first=2, last=1)"
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


def tiny_tokenizer() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    capitals = [chr(c) for c in range(ord("A"), ord("Z") + 1)]
    merges = [(a, b) for a in capitals for b in capitals]
    merges += [("Ġ", "y"), ("Ġy", "e"), ("Ġye", "s"), ("Ġ", "n"), ("Ġn", "o")]
    vocab = {token: i for i, token in enumerate(alphabet + [a + b for a, b in merges])}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken("<|im_start|>", special=True), AddedToken("<|im_end|>", special=True)])
    hf = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", chat_template=CHAT)
    return Tokenizer(hf)


def tiny_model(seed: int = 0) -> Model:
    tokenizer = tiny_tokenizer()
    config = ModelConfig(
        num_layers=3,
        d_model=32,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        d_ff=48,
        vocab_size=tokenizer.vocab_size,
        rope_theta=1000.0,
        norm_eps=1e-5,
        max_len=4096,
        qkv_bias=True,
        qk_norm=True,
    )
    rng = np.random.default_rng(seed)

    def draw(name: str, shape: tuple[int, ...]) -> jnp.ndarray:
        values = rng.standard_normal(shape)
        if name.endswith("norm"):
            values = 1.2 + 0.2 * values
        elif name.endswith("bias"):
            values *= 0.3
        elif name != "embed":
            values *= config.d_model**-0.5
        return jnp.asarray(values, jnp.float32)

    abstract = abstract_params(config)
    layers = {name: draw(name, leaf.shape) for name, leaf in abstract["layers"].items()}
    top = {name: draw(name, leaf.shape) for name, leaf in abstract.items() if name != "layers"}
    return Model("tiny", config, {**top, "layers": layers}, tokenizer, f"tiny-{seed}")


def tiny_settings(folder: Path, **changed: object) -> Settings:
    """Settings that need nothing outside `folder`; it gets the template and the compilation cache."""
    template = folder / "tiny.yaml"
    template.write_text(TEMPLATE, encoding="utf-8")
    fields: dict[str, object] = {
        "model": "tiny",
        "template": str(template),
        "cache": CacheSettings(page_tokens=PAGE_TOKENS, pool_bytes=2**21),
        "limits": LIMITS,
        "arms": ARMS,
        "default_arm": "sequential_label_blocks_boundary",
        "shapes": ShapeSettings(
            rank=((64, 64), (128, 128, 2), (320, 64, 2), (448, 320)),
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
            max_queue=256,
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
    worker = new_worker(settings, parts, new_planner(settings, parts, builder), builder)
    compile_slice(settings, parts, worker, lambda step: None)
    return parts, builder


def unstarted(
    compiled: tuple[SliceParts, PromptBuilder], settings: Settings, num_pages: int | None = None
) -> TinyEngine:
    """An engine that knows only the instruction, whose other pages are full of NaN; its threads are not started.

    `num_pages` makes its pool smaller, the null page counted.
    """
    parts, builder = compiled
    engine = TinyEngine(parts, settings, builder, num_pages)
    nothing = np.full(parts.programs.format.shape(parts.programs.num_pages), np.nan, np.float32)
    nothing[:, 0] = 0
    engine.executor.pages = KVPages(jnp.asarray(nothing), jnp.asarray(nothing))
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

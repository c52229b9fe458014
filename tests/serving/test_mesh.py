"""A mesh of fake devices: each slice scores as one device does, and the pools are one array without a copy."""

import sys
import time
from dataclasses import replace
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

from tiny_engine import ARMS, event, item, tiny_model, tiny_settings

from rcjax.catalog.types import User
from rcjax.config import ArmSettings, MeshSettings, ShapeSettings
from rcjax.engine.cost import CostModel
from rcjax.engine.executor import TRANSFER_PAGES, Executor
from rcjax.engine.generation import Sampling
from rcjax.engine.programs import Programs
from rcjax.kernels.selective_attention import REFERENCE
from rcjax.model.decoder import abstract_params
from rcjax.model.kv import kv_format
from rcjax.model.sharding import mesh_of_slices, page_shardings, slice_meshes, whole_pool
from rcjax.model.spec import Model
from rcjax.request import RecommendRequest
from rcjax.serving import snapshots
from rcjax.serving.mesh import engine_mesh
from rcjax.serving.startup import start_engine

SPLITS = [(1, 2), (2, 1), (2, 2), (2, 4), (4, 2), (8, 1)]  # those of 4x1 and 1x4 are the first of 8x1 and 2x4
ITEMS = [item(n, num_words=2, text="soft" * (n % 2)) for n in range(3)]
USER = User("u", tuple(event(n) for n in range(2)))
REQUEST = RecommendRequest(tuple(one.item_id for one in ITEMS), "u")
GREEDY = Sampling(max_new_tokens=5)
SHAPES = ShapeSettings(rank=((144, 16),), build=((96, 8),))
PROBES = {
    "deviation": ArmSettings(selection="deviation(r=0.3)"),
    "heavy_hitter": ArmSettings(selection="heavy_hitter(r_item=0.3)"),
    "query": ArmSettings(layout="parallel", selection="query(r=0.3)"),
    "offline": ArmSettings(selection="offline(k=2)"),
}


@cache
def wide_model() -> Model:
    """The tiny model with eight query heads and four kv heads, so that four devices can share them."""
    tiny = tiny_model()
    config = replace(tiny.config, num_heads=8, num_kv_heads=4)
    rng = np.random.default_rng(1)

    def draw(leaf):
        return jnp.asarray(rng.standard_normal(leaf.shape) * config.d_model**-0.5, jnp.float32)

    return replace(tiny, config=config, params=jax.tree.map(draw, abstract_params(config)), fingerprint="wide")


def empty_engine(folder, arms=ARMS, shapes=SHAPES, **mesh):
    default_arm = next(iter(arms))
    settings = tiny_settings(folder, mesh=MeshSettings(**mesh), arms=arms, default_arm=default_arm, shapes=shapes)
    return start_engine(settings, model=wide_model())


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Starts an engine of so many slices of so many devices that holds the items and the user; once, where asked again.

    The tests only ask them: what one leaves is what the next finds.
    """
    folder, started = tmp_path_factory.mktemp("mesh"), {}

    def start(slices, tensor, arms=ARMS, shapes=SHAPES):
        key = slices, tensor, tuple(arms), shapes
        if key not in started:
            engine = started[key] = empty_engine(folder, arms, shapes, slices=slices, tensor=tensor)
            engine.put_items(ITEMS)
            engine.put_user(USER)
            engine.choose_orders()
        return started[key]

    yield start
    for engine in started.values():
        engine.close()


def answers_of(engine, arms):
    """What each slice answers in each arm: its scores by item id."""
    by_slice = []
    for worker in engine.router.workers:
        answers = {}
        for arm in arms:
            with engine.router.planned(replace(REQUEST, arm=arm)) as plan:
                result = worker.submit(plan, arrival_s=time.monotonic()).result()
            answers[arm] = {ranked.item_id: ranked.score for ranked in result.ranking}
        by_slice.append(answers)
    return by_slice


def assert_close(answers, wanted):
    for arm, scores in wanted.items():
        assert answers[arm] == {name: pytest.approx(score, abs=1e-5) for name, score in scores.items()}, arm


@pytest.mark.parametrize(("slices", "tensor"), SPLITS)
def test_every_slice_scores_in_every_arm_as_one_device_does(start, slices, tensor):
    (wanted,) = answers_of(start(1, 1), ARMS)
    assert len({tuple(scores.values()) for scores in wanted.values()}) > 6, "the arms are not alike"
    by_slice = answers_of(start(slices, tensor), ARMS)
    assert len(by_slice) == slices
    for answers in by_slice:
        assert_close(answers, wanted)


def test_selection_by_probes_is_that_of_one_device(start):
    (wanted,) = answers_of(start(1, 1, PROBES), PROBES)
    (answers,) = answers_of(start(1, 2, PROBES), PROBES)
    assert_close(answers, wanted)


def test_text_is_generated_as_on_one_device(start):
    shapes = ShapeSettings(rank=((8, 8),), build=((96, 8),), generate=((1, 16), (16, 8)))
    one, split = (start(1, tensor, shapes=shapes) for tensor in (1, 2))
    text = one.generate("Red mug", GREEDY)
    assert len(text) == GREEDY.max_new_tokens
    assert split.generate("Red mug", GREEDY) == text


@pytest.mark.parametrize("mesh", [{"slices": 1, "tensor": 2}, {"slices": 2, "placement": "hash"}])
def test_a_snapshot_is_restored_to_another_mesh(start, tmp_path, mesh):
    source = start(2, 1)
    (wanted,) = answers_of(start(1, 1), ARMS)
    saved = snapshots.save(source, tmp_path / "snapshot")
    assert saved.num_blocks == len(ITEMS) + 1, "each once, though both slices hold it"
    with empty_engine(tmp_path, **mesh) as engine:
        restored = snapshots.restore(engine, tmp_path / "snapshot")
        assert restored.num_blocks == len(ITEMS) + len(engine.router.workers), "the user's on each slice"
        assert restored.num_skipped == 0
        assert restored.corrupt == ()
        assert engine.put_items(ITEMS) == 0
        engine.put_user(USER)
        assert engine.stats().num_misses == 0
        for answers in answers_of(engine, ARMS):
            assert_close(answers, wanted)


def test_each_slice_has_devices_and_weights_of_its_own(start):
    devices = jax.devices()
    for number, worker in enumerate(start(2, 2).router.workers):
        executor, own = worker.cache.executor, set(devices[2 * number : 2 * number + 2])
        assert executor.pages.k.sharding.device_set == own
        assert executor.pages.k.sharding.shard_shape(executor.pages.k.shape)[3] == 2, "of four kv heads"
        assert {x.sharding.device_set == own for x in jax.tree.leaves(executor._params)} == {True}


@pytest.mark.parametrize("kv_dtype", ["float32", "int8"])
@pytest.mark.parametrize(("slices", "tensor"), [(4, 2), (2, 1)])
def test_the_pools_of_all_slices_are_one_array_of_the_same_buffers(slices, tensor, kv_dtype):
    some = kv_format(wide_model().config, kv_dtype, page_tokens=4)
    mesh = mesh_of_slices(jax.devices()[: slices * tensor], slices)
    pools = [
        jax.tree.map(
            lambda x, on, number=number: jnp.full(x.shape, number, x.dtype, device=on),
            some.abstract(3),
            page_shardings(some, 3, devices),
        )
        for number, devices in enumerate(slice_meshes(mesh))
    ]
    whole = whole_pool(some, pools, mesh)
    some.check(whole)
    assert whole.num_pages == 3 * slices
    for arrays in zip(jax.tree.leaves(whole), *map(jax.tree.leaves, pools), strict=True):
        one, *parts = arrays
        assert one.sharding.spec[:4] == (None, "slice", None, "tensor")
        assert buffers(one) == {pointer for part in parts for pointer in buffers(part)}
        assert len(buffers(one)) == slices * tensor
        for number in range(slices):
            assert (np.asarray(one)[:, 3 * number : 3 * number + 3] == number).all()


def buffers(array):
    return {shard.data.unsafe_buffer_pointer() for shard in array.addressable_shards}


def test_one_device_runs_programs_that_know_of_no_mesh(start):
    executor = start(1, 1).router.workers[0].cache.executor
    assert isinstance(executor.pages.k.sharding, jax.sharding.SingleDeviceSharding)
    assert not any(word in text for text in hlo_of(executor.programs) for word in ("sharding={", "all-reduce"))
    assert all("all-reduce" in text for text in hlo_of(start(1, 2).router.workers[0].cache.executor.programs))


def hlo_of(programs):
    return [compiled[0].as_text() for compiled in programs._passes.values()]


@pytest.mark.parametrize("kv_dtype", ["float32", "int8"])
def test_pages_go_through_the_host_unchanged(kv_dtype):
    model = wide_model()
    meshes = slice_meshes(mesh_of_slices(jax.devices()[:4], 2))
    some = kv_format(model.config, kv_dtype, page_tokens=4)
    programs = Programs(
        model.params, model.config, some, num_pages=9, vocab_ids=np.arange(2), attention=REFERENCE, meshes=meshes
    )
    programs.compile_transfer(TRANSFER_PAGES)
    rng = np.random.default_rng(0)
    for index in range(2):
        executor = Executor(programs, model.params, CostModel(model.config, 4, some.page_bytes), index)
        values = jax.tree.map(lambda x: (9 * rng.standard_normal(x.shape)).astype(x.dtype), some.host_empty(3))
        executor.write_pages([5, 8, 7], values)
        found = executor.read_pages([8, 5])
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(values), strict=True):
            np.testing.assert_array_equal(one, other[:, [1, 0]])


@pytest.mark.parametrize(
    ("slices", "tensor", "message"),
    [
        (
            16,
            1,
            r"mesh.slices=16 times mesh.tensor=1 is 16 devices, of which there are 8 \(cpu\); make one of",
        ),
        (1, 16, r"mesh.tensor=16.*set mesh.cpu_devices"),
        (2, 3, r"mesh.tensor=3 does not divide this model's 4 kv heads.*one of \[1, 2, 4\]"),
    ],
)
def test_a_mesh_that_cannot_be_is_refused_by_name(start, slices, tensor, message):
    with pytest.raises(ValueError, match=message):
        start(slices, tensor)


def test_a_cpu_cannot_be_divided_once_it_runs():
    assert len(jax.devices()) == 8
    with pytest.raises(ValueError, match=r"mesh.cpu_devices=9 comes too late.*with 8 CPU devices"):
        engine_mesh(MeshSettings(cpu_devices=9))
    assert engine_mesh(MeshSettings(slices=2, cpu_devices=8)).devices.shape == (2, 1)

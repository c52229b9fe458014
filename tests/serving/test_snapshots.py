"""Snapshots of an engine that serves: its library too, onto other slices, in the background, and asked for by RPC."""

import shutil
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

from fake_router import FakeRouter
from tiny_engine import PAGE_TOKENS, event, item, tiny_model, tiny_settings

from rcjax.cache.snapshot import SnapshotStore
from rcjax.cache.snapshot.manifest import numbers_in
from rcjax.catalog.types import User
from rcjax.config import ArmSettings, CacheSettings, MeshSettings, ShapeSettings, SnapshotSettings
from rcjax.errors import InvalidRequestError, NotFoundError, ResourceExhaustedError
from rcjax.prompt import BlockKind, Owner
from rcjax.request import RecommendRequest
from rcjax.serving import snapshots
from rcjax.serving.client import RecommenderClient
from rcjax.serving.engine import RestoreResult, SnapshotResult
from rcjax.serving.server import Server, running_server
from rcjax.serving.snapshots import Snapshots
from rcjax.serving.startup import start_engine

ITEMS = [item(n, num_words=1 + n % 3) for n in range(6)]
IDS = tuple(one.item_id for one in ITEMS)
USERS = [User(f"u{n}", tuple(event(i) for i in range(1 + n))) for n in range(2)]
ARMS = {"parallel": ArmSettings(layout="parallel", scoring="anchor"), "full": ArmSettings(reuse="none")}
# One shape of each kind: which of two takes a pass is decided by seconds, and the last bit of a score is the shape's.
SHAPES = ShapeSettings(rank=((448, 64),), build=((128, 16),))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    return tmp_path_factory.mktemp("snapshots")


@pytest.fixture
def start(compiled):
    """Starts an engine that holds nothing; all of a test are closed at its end."""
    started = []

    def start(slices=1, pool_bytes=2**20, snapshot=None, **mesh):
        settings = tiny_settings(
            compiled,
            arms=ARMS,
            default_arm="parallel",
            shapes=SHAPES,
            mesh=MeshSettings(slices=slices, **mesh),
            cache=CacheSettings(page_tokens=PAGE_TOKENS, pool_bytes=pool_bytes),
            snapshot=snapshot or SnapshotSettings(),
        )
        started.append(start_engine(settings, model=tiny_model()))
        return started[-1]

    yield start
    for engine in started:
        engine.close()


@pytest.fixture(scope="module")
def saved(compiled):
    """A snapshot, what was saved, and what the engine that it is of answered; nobody changes them."""
    settings = tiny_settings(
        compiled,
        arms=ARMS,
        default_arm="parallel",
        shapes=SHAPES,
        cache=CacheSettings(page_tokens=PAGE_TOKENS, pool_bytes=2**20),
    )
    with start_engine(settings, model=tiny_model()) as engine:
        filled(engine)
        wanted = scores(engine)
        report = snapshots.save(engine, compiled / "saved")
        page_bytes = engine.workers[0].cache.executor.format.page_bytes
        events = engine.router.library.user("", "u1")
        engine.append_events("u1", [event(7)])
        later = {arm: scores(engine, arm) for arm in ARMS}
    return SimpleNamespace(
        folder=compiled / "saved", report=report, scores=wanted, later=later, page_bytes=page_bytes, user=events
    )


def filled(engine):
    engine.put_items(ITEMS)
    for user in USERS:
        engine.put_user(user)
    return engine


def scores(engine, arm="parallel", user="u1"):
    (result,) = engine.recommend([RecommendRequest(IDS, user, arm=arm)])
    assert not isinstance(result, Exception), result
    return {ranked.item_id: ranked.score for ranked in result.ranking}


def assert_same(found, wanted):
    assert found == {name: pytest.approx(score, abs=1e-5) for name, score in wanted.items()}


def test_a_new_engine_knows_and_scores_what_the_old_one_did(start, saved):
    assert (saved.report.num_blocks, saved.report.num_items, saved.report.num_users) == (8, 6, 2)
    engine = start()
    restored = snapshots.restore(engine, saved.folder)
    assert (restored.num_items, restored.num_users, restored.corrupt) == (6, 2, ())
    assert restored == saved.report
    assert scores(engine) == saved.scores
    assert engine.stats().num_misses == 0, "nothing was computed"
    found = engine.router.library.user("", "u1")
    assert (found.content, found.event_lens) == (saved.user.content, saved.user.event_lens)
    assert {one.id: stored.content for one, stored in engine.router.library.items().items()} == {
        one.item_id: one for one in ITEMS
    }
    # What comes after it goes on from what was restored.
    engine.append_events("u1", [event(7)])
    for arm in ARMS:
        assert_same(scores(engine, arm), saved.later[arm])


def test_from_one_slice_to_two_and_back(start, saved, tmp_path):
    two = start(slices=2, placement="hash")
    restored = snapshots.restore(two, saved.folder)
    assert restored.num_blocks == len(ITEMS) + 2 * len(USERS), "items where they belong, users everywhere"
    for index, worker in enumerate(two.router.workers):
        held = worker.call(lambda worker: [b.owner.id for b in worker.cache.directory.ready_blocks()]).result()
        items = {name for name in held if name in IDS}
        assert items == {name for name in IDS if index in two.router.owners.slices_of(name)}
    assert_same(scores(two), saved.scores)
    again = snapshots.save(two, tmp_path / "two")
    assert again.num_blocks == len(ITEMS) + len(USERS), "each once"
    back = start()
    assert snapshots.restore(back, tmp_path / "two").num_blocks == len(ITEMS) + len(USERS)
    assert_same(scores(back), saved.scores)
    assert back.stats().num_misses == 0


def test_a_smaller_pool_takes_what_was_used_last_and_computes_the_rest(start, saved):
    small = start(pool_bytes=20 * saved.page_bytes)
    restored = snapshots.restore(small, saved.folder)
    assert restored.num_skipped > 0
    assert restored.num_blocks + restored.num_skipped == 8
    assert_same(scores(small), saved.scores)


def test_damaged_kv_is_computed_again(start, saved, tmp_path):
    shutil.copytree(saved.folder, tmp_path, dirs_exist_ok=True)
    for path in (tmp_path / "segments").iterdir():
        if path.suffix != ".index":
            raw = bytearray(path.read_bytes())
            raw[len(raw) // 2] ^= 1
            path.write_bytes(raw)
    engine = start()
    keeper = Snapshots(engine.router, tmp_path)
    report = keeper.restore()
    assert keeper.counters.num_corrupt == len(report.corrupt) == 2, "a block of each kind"
    assert_same(scores(engine), saved.scores)


def test_requests_writes_and_deletions_go_on_while_one_is_restored(start, saved, tmp_path):
    shutil.copytree(saved.folder, tmp_path, dirs_exist_ok=True)
    engine = start()
    keeper = Snapshots(engine.router, tmp_path)
    restored = keeper.begin_restore(hot_share=0.25)
    assert restored.report.num_blocks == 2
    assert_same(scores(engine), saved.scores)
    engine.delete_user("u0")
    engine.put_items([item(0, num_words=5)])
    for busy in (keeper.take, keeper.restore):
        with pytest.raises(ResourceExhaustedError, match="under way"):
            busy()
    report = restored.finish()
    assert report.corrupt == ()
    assert engine.router.library.user("", "u0") is None

    def current(worker):
        directory = worker.cache.directory
        return [directory.current(BlockKind.HISTORY, Owner("", name)) for name in ("u0", "u1")]

    gone, there = engine.workers[0].call(current).result()
    assert gone is None, "who is deleted does not come back"
    assert there is not None
    assert engine.router.library.item("", ITEMS[0].item_id).content == item(0, num_words=5)
    assert keeper.take().num_users == 1
    engine.router.workers[0].call(lambda worker: worker.cache.directory.check_integrity()).result()


def test_a_deleted_user_is_not_in_the_next_one(start, tmp_path):
    engine = filled(start())
    keeper = Snapshots(engine.router, tmp_path, keep=1)
    keeper.take()
    engine.delete_user("u0")
    assert keeper.take().num_users == 1
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b'"u0"' in path.read_bytes()]


def test_snapshots_come_by_themselves_and_when_it_stops(start, tmp_path):
    where = tmp_path / "periodic"
    engine = filled(start(snapshot=SnapshotSettings(where=str(where), every_s=0.05, keep=2)))
    keeper = engine.router.snapshots
    seen = threading.Event()
    before = keeper.counters.num_taken
    for _ in range(2000):
        if keeper.counters.num_taken >= before + 3:
            break
        seen.wait(0.02)
    engine.close()
    assert keeper.counters.num_failed == 0
    assert keeper.counters.last.num_written == 0, "nothing has changed"
    numbers = numbers_in(SnapshotStore(where))
    assert len(numbers) == 2
    assert numbers[-1] == keeper.counters.num_taken
    last = filled(start(snapshot=SnapshotSettings(where=str(tmp_path / "last"), on_stop=True)))
    last.close()
    assert numbers_in(SnapshotStore(tmp_path / "last")) == [1]


def test_one_that_cannot_be_written_is_counted_and_serving_goes_on(start, tmp_path):
    (tmp_path / "file").write_text("")
    engine = filled(start(snapshot=SnapshotSettings(where=str(tmp_path / "file" / "in"), on_stop=True)))
    engine.router.snapshots.stop()
    assert engine.router.snapshots.counters.num_failed == 1
    assert scores(engine)


def test_settings_need_a_place():
    with pytest.raises(ValueError, match="where is not set"):
        SnapshotSettings(every_s=5)
    assert SnapshotSettings(where="gs://b/p").in_folder(Path("/etc")).where == "gs://b/p"
    assert SnapshotSettings(where="kept").in_folder(Path("/etc")).where == "/etc/kept"


def test_by_rpc_in_a_real_engine(start, tmp_path):
    where = tmp_path / "kept"
    engine = filled(start(snapshot=SnapshotSettings(where=str(where))))
    with (
        running_server(Server(lambda: engine.router)) as addresses,
        RecommenderClient(addresses.main, addresses.admin) as client,
    ):
        with pytest.raises(NotFoundError, match="no snapshot in"):
            client.restore_snapshot()
        taken = client.take_snapshot()
        assert (taken.number, taken.num_blocks, taken.num_written, taken.num_items) == (1, 8, 8, 6)
        client.delete_user("u0")
        done = client.restore_snapshot(1)
        assert (done.num_blocks, done.num_present, done.num_users) == (1, 7, 1)
        with pytest.raises(NotFoundError, match="no snapshot 9") as caught:
            client.restore_snapshot(9)
        assert caught.value.field == "number"


def test_by_rpc_what_comes_of_it():
    router = FakeRouter("item-1")
    with (
        running_server(Server(lambda: router)) as addresses,
        RecommenderClient(addresses.main, addresses.admin) as client,
    ):
        assert client.take_snapshot() == SnapshotResult(3, 10, 4096, 2, 512, 1, 1, 0.5)
        assert client.restore_snapshot(2) == RestoreResult(2, 8, 2048, 1, 2, 1, 0, 0, 0.25)
    assert router.calls == ["snapshot", ("restore", 2)]


def test_without_a_place_it_is_refused(start):
    with (
        running_server(Server(lambda: start().router)) as addresses,
        RecommenderClient(addresses.main, addresses.admin) as client,
        pytest.raises(InvalidRequestError, match=r"configure snapshot\.where"),
    ):
        client.take_snapshot()

"""After a user is deleted nothing that the process can reach holds their text or their tokens, nor any file."""

import array
import gc
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from connected_slices import WATCHDOG_S, Slices, parts_of
from lending import DONOR_EVENTS, IDS, ITEMS, lending_settings
from tiny_engine import compiled_parts, restarted

from rcjax.cache.packing import pack_ids
from rcjax.cache.tiers import KVTiers
from rcjax.cache.tiers.disk import DiskTier
from rcjax.catalog.types import Event, User
from rcjax.engine.library_blocks import ANY_HISTORY
from rcjax.prompt import BlockKind, Owner
from rcjax.request import AppendEvents, DeleteUser, PutItems, PutUser, RecommendRequest

SECRET = "zqxjkvwy"  # in no other text
EVENTS = (Event("i1", f"{SECRET} vase"), Event("i2", f"lamp {SECRET}"))
INLINE = (Event("i3", f"{SECRET} rug"),)
# Programs, classes and devices: what a frame or a compiled pass holds is of the moment, and pages have other names.
APART = (types.ModuleType, types.CodeType, types.FrameType, type, jax.Array)


def copies(root: Any, ids: np.ndarray) -> list[str]:
    """Where objects that `root` leads to hold the secret, as text or as these tokens."""
    patterns = (SECRET.encode(), ids.tobytes(), bytes(pack_ids(ids)))
    found, stack, seen = [], [root], {}
    while stack:
        one = stack.pop()
        if id(one) in seen or isinstance(one, APART):
            continue
        seen[id(one)] = one  # which keeps its id from being another's
        if isinstance(one, types.FunctionType):
            stack += [one.__closure__, one.__defaults__, one.__kwdefaults__]
        elif holds(one, patterns, ids):
            found.append(repr(one)[:100])
        else:
            stack += gc.get_referents(one)
    assert len(seen) > 1000, "the walk has not begun"
    return found


def holds(one: Any, patterns: tuple[bytes, ...], ids: np.ndarray) -> bool:
    if isinstance(one, str):
        return SECRET in one
    if isinstance(one, bytes | bytearray | array.array):
        return any(pattern in bytes(one) for pattern in patterns)
    if isinstance(one, np.ndarray):
        return one.dtype.kind in "iu" and ids.tobytes() in np.ascontiguousarray(one, np.int32).tobytes()
    if isinstance(one, list | tuple) and len(one) >= len(ids) and all(type(n) is int for n in one):
        return ids.tobytes() in np.array(one, np.int64).astype(np.int32).tobytes()
    return False


def secret_ids(builder: Any) -> np.ndarray:
    """The tokens that every text with the secret has, as this tokenizer spells a word letter by letter."""
    return builder.encode(SECRET)


@pytest.fixture(scope="module")
def lending(tmp_path_factory):
    settings = lending_settings(tmp_path_factory.mktemp("deletion"))
    return compiled_parts(settings), settings


def test_an_engine_forgets_a_user_everywhere(lending) -> None:
    """Library, planner, pool, semantic pool, residency, under whichever name and however the history came."""
    engine = restarted(*lending)
    ids = secret_ids(engine.builder)
    engine.put_items(ITEMS)
    engine.put_user(User("ann", EVENTS[:1]))
    engine.append_events("ann", EVENTS[1:])
    engine.put_user(User("bob", DONOR_EVENTS))
    assert engine.build_semantic_pool() > 0
    exact = "parallel_exact"
    requests = [
        RecommendRequest(IDS, "ann", arm=exact),
        RecommendRequest(IDS, "ann", history=INLINE, arm=exact),
        RecommendRequest(IDS, "ann", history=(*INLINE, *EVENTS), arm=exact),
        RecommendRequest(IDS, "ann", history=EVENTS, arm=exact),
        RecommendRequest(IDS, "bob", arm=exact),  # so that nothing of the last request is left over
    ]
    for outcome in engine.recommend(requests):
        assert not isinstance(outcome, Exception), outcome
    del requests, outcome
    before = engine.worker.semantic._pool.num_prototypes
    assert len(copies(engine, ids)) > 3
    assert engine.delete_user("ann")
    assert copies(engine, ids) == []
    assert 0 < engine.worker.semantic._pool.num_prototypes < before
    assert engine.library.user_owners == [Owner("", "bob")]


def test_what_came_inline_goes_though_the_library_never_had_the_user(lending) -> None:
    engine = restarted(*lending)
    engine.put_items(ITEMS)
    engine.recommend([RecommendRequest(IDS, "eve", history=INLINE, arm="parallel_exact")])
    owner = Owner("", "eve", ANY_HISTORY)
    assert engine.directory.current(BlockKind.HISTORY, owner) is not None
    assert not engine.delete_user("eve")
    assert engine.directory.current(BlockKind.HISTORY, owner) is None
    engine.recommend([RecommendRequest(IDS, history=DONOR_EVENTS, arm="parallel_exact")])
    assert copies(engine, secret_ids(engine.builder)) == []


def test_a_user_goes_from_one_tenant_and_the_others_of_that_id_stay(lending) -> None:
    """The same user, with the same texts, in two tenants: the secret is gone with the second one only."""
    engine = restarted(*lending)
    ids = secret_ids(engine.builder)
    for tenant in ("one", "two"):
        for write in (PutItems(tuple(ITEMS), tenant), PutUser(User("ann", EVENTS), tenant)):
            engine.router.submit_write(write).result(WATCHDOG_S)
    asked = [RecommendRequest(IDS, "ann", arm="parallel_exact", tenant=tenant) for tenant in ("one", "two")]
    asked += [RecommendRequest(IDS, "ann", history=INLINE, arm="parallel_exact", tenant=one.tenant) for one in asked]
    asked += [RecommendRequest(IDS, "", history=DONOR_EVENTS, arm="parallel_exact", tenant=one.tenant) for one in asked]
    for outcome in engine.recommend(asked):
        assert not isinstance(outcome, Exception), outcome
    del asked, outcome, write
    engine.router.submit_write(DeleteUser("ann", "one")).result(WATCHDOG_S)
    assert len(copies(engine, ids)) > 3
    owners = {block.owner for block in engine.directory.ready_blocks() if block.owner.id == "ann"}
    assert owners == {Owner("two", "ann"), Owner("two", "ann", ANY_HISTORY)}
    engine.router.submit_write(DeleteUser("ann", "two")).result(WATCHDOG_S)
    assert copies(engine, ids) == []


@pytest.fixture
def tiered(tmp_path: Path) -> Iterator[Slices]:
    """Two slices with next to no host memory behind them, and a disk behind that."""
    parts, _, _ = parts_of(2)
    disk = DiskTier(tmp_path, 2**24, parts.programs.format)
    made = Slices(2, tiers=KVTiers(6 * parts.programs.format.page_bytes, disk))
    yield made
    made.close()


def test_every_slice_and_every_tier_forgets_a_user(tiered: Slices, tmp_path: Path) -> None:
    tiered.put_items((1, 2, 3, 4), on=[0, 1])
    tiered.write(PutUser(User("ann", EVENTS)), on=[0, 1])
    ids = secret_ids(tiered.builder)
    plan = tiered.plan_of(RecommendRequest(("i1", "i2"), "ann"))
    other = tiered.plan_of(RecommendRequest(("i1", "i2"), history=()))
    for index in (0, 1):
        tiered.submit(index, plan).result(WATCHDOG_S)
        tiered.evict_all(index)
    key = next(planned.key for planned in plan.wanted if planned.block.kind is BlockKind.HISTORY)
    assert tiered.tiers.find(key) is not None
    del plan
    tiered.write(DeleteUser("ann"), on=[])
    for index in (0, 1):
        tiered.submit(index, other).result(WATCHDOG_S)
    assert copies(tiered, ids) == []
    assert tiered.tiers.find(key) is None
    patterns = (SECRET.encode(), ids.tobytes(), bytes(pack_ids(ids)))
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or not any(pattern in path.read_bytes() for pattern in patterns), path


def test_appending_to_a_user_who_is_gone_brings_nothing_back(tiered: Slices) -> None:
    tiered.write(PutUser(User("ann", EVENTS)), on=[0, 1])
    tiered.write(DeleteUser("ann"), on=[])
    with pytest.raises(LookupError, match="ann"):
        tiered.planner.plan_write(AppendEvents("ann", INLINE))

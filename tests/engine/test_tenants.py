"""Tenants in one engine: the same ids and texts are blocks and library entries of each, and go each on its own."""

import pytest
from tiny_engine import assert_idle, event, item

from rcjax.catalog.types import User
from rcjax.errors import NotFoundError
from rcjax.prompt import BlockKind, Owner
from rcjax.request import AppendEvents, DeleteItems, DeleteUser, PutItems, PutUser, RecommendRequest

ITEMS = tuple(item(number) for number in range(3))
IDS = tuple(one.item_id for one in ITEMS)
EVENTS = tuple(event(number) for number in range(2))
ARM = "parallel_anchor_blocks"


def write(engine, one):
    return engine.router.submit_write(one).result(60)


def stock(engine, tenant):
    put = write(engine, PutItems(ITEMS, tenant))
    write(engine, PutUser(User("u", EVENTS), tenant))
    return put.num_built


def ask(engine, tenant, candidates=IDS, user_id="u", history=None):
    (answer,) = engine.recommend([RecommendRequest(candidates, user_id, history, arm=ARM, tenant=tenant)])
    return answer


def scores(answer):
    return [(ranked.item_id, ranked.score) for ranked in answer.ranking]


def test_what_one_tenant_sent_another_misses_and_the_same_hits(engine):
    first, again = (ask(engine, "one", ITEMS, "u", EVENTS) for _ in range(2))
    other, others_again = (ask(engine, "two", ITEMS, "u", EVENTS) for _ in range(2))
    assert first.tokens.built == other.tokens.built > 0
    assert again.tokens.built == others_again.tokens.built == 0
    assert scores(first) == scores(again) == scores(other) == scores(others_again)
    assert_idle(engine)


def test_a_library_is_one_tenants(engine):
    assert stock(engine, "one") == len(ITEMS)
    for tenant in ("two", ""):
        for candidates, history, field in ((IDS, EVENTS, "candidates[0].item_id"), (ITEMS, None, "user_id")):
            error = ask(engine, tenant, candidates, "u", history)
            assert isinstance(error, NotFoundError)
            assert (error.field, "one" in error.message) == (field, False)
    with pytest.raises(NotFoundError):
        write(engine, AppendEvents("u", EVENTS, "two"))
    assert stock(engine, "two") == len(ITEMS), "nothing is shared"
    assert (engine.stats().num_items, engine.stats().num_users) == (2 * len(ITEMS), 2)
    mine, theirs = ask(engine, "one"), ask(engine, "two")
    assert mine.tokens.built == theirs.tokens.built == 0
    assert scores(mine) == scores(theirs)


def test_each_changes_and_deletes_its_own(engine):
    stock(engine, "one"), stock(engine, "two")
    before = scores(ask(engine, "two"))
    changed = item(0, text="anew")
    write(engine, PutItems((changed,), "one"))
    write(engine, AppendEvents("u", (event(7),), "one"))
    assert scores(ask(engine, "one")) != before
    assert write(engine, DeleteItems((*IDS, "i9"), "one")).num_deleted == len(IDS)
    assert write(engine, DeleteUser("u", "one")).num_deleted == 1
    assert isinstance(ask(engine, "one"), NotFoundError)
    names = [(BlockKind.HISTORY, "u"), *((BlockKind.ITEM, item_id) for item_id in IDS)]
    for kind, name in names:
        assert engine.directory.current(kind, Owner("one", name)) is None
        assert engine.directory.current(kind, Owner("two", name)) is not None
    left = ask(engine, "two")
    assert (scores(left), left.tokens.built) == (before, 0)
    assert {owner.tenant for owner in (*engine.library.item_owners, *engine.library.user_owners)} == {"two"}
    assert write(engine, DeleteUser("u", "")).num_deleted == 0


def test_a_deletion_takes_what_came_inline_for_that_tenants_user_alone(engine):
    other = (event(5),)
    ask(engine, "one", ITEMS, "u", other), ask(engine, "two", ITEMS, "u", other)
    write(engine, DeleteUser("u", "one"))
    inline = {b.owner for b in engine.directory.ready_blocks() if b.kind == BlockKind.HISTORY}
    assert [(owner.tenant, owner.id, owner.is_inline) for owner in inline] == [("two", "u", True)]

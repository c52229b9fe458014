"""Tenants over gRPC: whose items and users a call means follows from its token, in calls and in streams."""

import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from credentials_kit import write_tokens

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

from engine_fixtures import closing, compiled, engine, settings  # noqa: F401
from tiny_engine import event, item, restarted

from rcjax.catalog.types import User
from rcjax.errors import InvalidRequestError, NotFoundError
from rcjax.prompt import Owner
from rcjax.request import GenerateRequest, RecommendRequest
from rcjax.serving import snapshots
from rcjax.serving.client import RecommenderClient
from rcjax.serving.retries import NO_RETRIES
from rcjax.serving.security import ChannelSecurity, ServerSecurity, new_channel
from rcjax.serving.server import Server, running_server

CALLERS = ("shop-web", "shop-batch", "mail", "tools")
TENANTS = {"shop-web": "shop", "shop-batch": "shop", "mail": "mail"}  # tools are of the default tenant
TOKENS = {name: f"{name}-0123456789-0123456789" for name in CALLERS}
ITEMS = [item(number) for number in range(3)]
OTHERS = [item(number, text="in mail") for number in range(3)]
IDS = tuple(one.item_id for one in ITEMS)
ASKED = RecommendRequest(IDS, "u", arm="parallel_anchor_blocks")


@pytest.fixture
def clients(engine, tmp_path):  # noqa: F811
    """A client of each caller."""
    security = ServerSecurity.of(tokens=write_tokens(tmp_path / "tokens", TOKENS), tenants=TENANTS)
    with running_server(Server(lambda: engine.router, security=security)) as addresses, ExitStack() as stack:
        target = addresses.main.replace("127.0.0.1", "localhost")
        connected = {}
        for name, token in TOKENS.items():
            connect = partial(new_channel, security=ChannelSecurity(tls=False, token=token))
            client = RecommenderClient(target, timeout_s=120.0, retry=NO_RETRIES, connect=connect)
            connected[name] = stack.enter_context(client)
        yield connected


def stock(client, items, *numbers):
    client.put_items(items)
    client.put_user(User("u", tuple(map(event, numbers))))


def scores(result):
    return {ranked.item_id: ranked.score for ranked in result.ranking}


def test_a_tenant_sees_its_own_under_the_same_ids(clients):
    stock(clients["shop-batch"], ITEMS, 0, 1)
    expected = scores(clients["shop-web"].recommend(ASKED))
    for name in ("mail", "tools"):
        with pytest.raises(NotFoundError) as caught:
            clients[name].recommend(ASKED)
        assert caught.value.field == "user_id"
        assert "shop" not in str(caught.value)
        with pytest.raises(NotFoundError):
            clients[name].append_events("u", [event(5)])
        assert clients[name].delete_items(IDS) == 0
        assert not clients[name].delete_user("u")
    stock(clients["mail"], OTHERS, 3)
    theirs = scores(clients["mail"].recommend(ASKED))
    assert theirs != expected
    assert clients["shop-web"].delete_user("u")
    with pytest.raises(NotFoundError):
        clients["shop-batch"].recommend(ASKED)
    assert scores(clients["mail"].recommend(ASKED)) == theirs


def test_streams_are_of_their_callers_tenant(clients, engine):  # noqa: F811
    (progress,) = clients["shop-batch"].put_items_stream(ITEMS, chunk_items=3)
    assert (progress.num_built, progress.error) == (3, None)
    (again,) = clients["shop-web"].put_items_stream(ITEMS, chunk_items=3)
    assert again.num_built == 0, "they are the tenant's, whoever of it puts them"
    (other,) = clients["mail"].put_items_stream(ITEMS, chunk_items=3)
    assert other.num_built == 3
    assert {owner.tenant for owner in engine.library.item_owners} == {"shop", "mail"}
    clients["shop-web"].put_user(User("u", (event(0),)))
    (answer,) = clients["shop-batch"].recommend_stream([ASKED])
    assert len(answer.outcome.ranking) == len(IDS)
    (refused,) = clients["mail"].recommend_stream([ASKED])
    assert isinstance(refused.outcome, NotFoundError)
    generate = GenerateRequest(ASKED, max_new_tokens=1)
    assert list(clients["shop-web"].generate(generate))
    with pytest.raises(NotFoundError) as caught:
        list(clients["mail"].generate(generate))
    assert caught.value.field == "request.user_id"


def test_a_request_cannot_choose_its_tenant(clients):
    request = RecommendRequest(IDS, "u", tenant="shop")
    calls = (
        lambda client: client.recommend(request),
        lambda client: list(client.recommend_stream([request])),
        lambda client: list(client.generate(GenerateRequest(request))),
    )
    for call in calls:
        with pytest.raises(InvalidRequestError, match=r"tenant is 'shop': .* by who calls; leave it out") as caught:
            call(clients["mail"])
        assert caught.value.field == "tenant"


def test_a_snapshot_brings_each_tenant_its_own(clients, engine, compiled, settings, tmp_path):  # noqa: F811
    stock(clients["shop-web"], ITEMS, 0, 1)
    stock(clients["mail"], OTHERS, 3)
    asked = [RecommendRequest(IDS, "u", arm=ASKED.arm, tenant=tenant) for tenant in ("shop", "mail", "")]
    expected = [scores(result) for result in engine.recommend(asked[:2])]
    saved = snapshots.save(engine, tmp_path / "saved")
    assert (saved.num_items, saved.num_users) == (6, 2)
    other = restarted(compiled, settings)
    restored = snapshots.restore(other, tmp_path / "saved")
    assert (restored.num_items, restored.num_users, restored.num_blocks) == (6, 2, 8)
    *results, error = other.recommend(asked)
    assert [scores(result) for result in results] == expected
    assert [result.tokens.built for result in results] == [0, 0]
    assert isinstance(error, NotFoundError)
    assert other.library.user("mail", "u").content == (event(3),)
    assert set(other.library.user_owners) == {Owner("shop", "u"), Owner("mail", "u")}

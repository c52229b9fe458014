"""Streams over gRPC from a real engine: what comes, what is refused, and what a reader who goes leaves behind."""

import asyncio
import sys
from contextlib import aclosing
from pathlib import Path

import grpc
import pytest
from generation_kit import joined, until

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

from engine_fixtures import closing, compiled, engine, settings  # noqa: F401
from tiny_engine import assert_idle, event, item

from rcjax.catalog.types import User
from rcjax.engine.generation import Sampling
from rcjax.errors import InvalidRequestError, NotFoundError, ResourceExhaustedError
from rcjax.request import GenerateRequest, RecommendRequest, TokenCounts
from rcjax.serving import codec
from rcjax.serving.client import RecommenderClient
from rcjax.serving.generations import MAX_UNREAD_TOKENS
from rcjax.serving.retries import NO_RETRIES
from rcjax.serving.server import Server, running_server
from rcjax.serving.v1 import rcjax_pb2, rcjax_pb2_grpc

LONG = GenerateRequest("red mug, oak", max_new_tokens=700)


@pytest.fixture
def stocked(engine):  # noqa: F811
    engine.put_items([item(number) for number in (1, 2, 3)])
    engine.put_user(User("u", tuple(event(number) for number in range(3))))
    return engine


@pytest.fixture
def served(stocked):
    with (
        running_server(Server(lambda: stocked.router)) as addresses,
        RecommenderClient(addresses.main, timeout_s=120.0, retry=NO_RETRIES) as client,
    ):
        client.target = addresses.main
        yield client


def test_a_text_is_continued_as_the_engine_does(served, stocked):
    expected = stocked.generate("red mug, oak", Sampling(20))
    parts = list(served.generate(GenerateRequest("red mug, oak", max_new_tokens=20)))
    token_ids, text, end = joined(parts)
    assert token_ids == expected
    assert text == stocked.builder.decode(expected)
    assert (end.num_new_tokens, end.is_complete) == (20, False)
    assert end.tokens == TokenCounts(fresh=len(stocked.builder.text_block("red mug, oak")))
    assert 0 < end.ttft_ms <= end.total_ms
    assert_idle(stocked)


def test_a_requests_prompt_is_continued_from_cached_blocks(served, stocked):
    request = RecommendRequest(("i1", "i2", "i3"), "u", arm="sequential_label_blocks")
    expected = stocked.generate(request, Sampling(6))
    token_ids, _, end = joined(list(served.generate(GenerateRequest(request, max_new_tokens=6))))
    assert token_ids == expected
    assert end.tokens.prompt_len == sum(len(block) for block in stocked.prompt(request).blocks)
    assert end.tokens.cached > end.tokens.fresh > 0
    assert end.tokens.built == 0
    assert_idle(stocked)


def test_a_seed_is_kept_to(served, stocked):
    drawn = GenerateRequest("oak", max_new_tokens=12, temperature=2.0, seed=2**64 - 1)
    first = joined(list(served.generate(drawn)))[0]
    assert first == joined(list(served.generate(drawn)))[0]
    assert first == stocked.generate("oak", Sampling(12, 2.0, 2**64 - 1))


def test_the_end_of_the_text_is_told(served, stocked):
    expected = stocked.generate("red mug, oak", Sampling(8))
    stocked.worker._generator._eos_ids = frozenset({expected[3]})
    token_ids, _, end = joined(list(served.generate(GenerateRequest("red mug, oak", max_new_tokens=8))))
    assert token_ids == expected[: expected.index(expected[3])]
    assert (end.is_complete, end.num_new_tokens) == (True, len(token_ids))


BAD = [
    (GenerateRequest(""), InvalidRequestError, "text"),
    (GenerateRequest("\ud800"), InvalidRequestError, "text"),
    (GenerateRequest("oak", max_new_tokens=-1), InvalidRequestError, "max_new_tokens"),
    (GenerateRequest("oak", max_new_tokens=5000), InvalidRequestError, "max_new_tokens"),
    (GenerateRequest("oak", max_new_tokens=1200), InvalidRequestError, ""),  # within the context, over the shapes
    (GenerateRequest("oak", temperature=-0.5), InvalidRequestError, "temperature"),
    (GenerateRequest("oak", temperature=float("inf")), InvalidRequestError, "temperature"),
    (GenerateRequest(RecommendRequest((), "u")), InvalidRequestError, "request.candidates"),
    (GenerateRequest(RecommendRequest(("i9",), "u")), NotFoundError, "request.candidates[0].item_id"),
    (GenerateRequest(RecommendRequest(("i1",), "u", arm="no")), InvalidRequestError, "request.arm"),
]


@pytest.mark.parametrize(("request_", "error", "field"), BAD)
def test_what_cannot_be_continued_is_refused_by_name(served, stocked, request_, error, field):
    with pytest.raises(error) as caught:
        list(served.generate(request_))
    assert caught.value.field == field
    assert stocked.library.versions.oldest == stocked.library.versions.begin_read()
    assert_idle(stocked)


def test_a_prompt_is_needed(served):
    with grpc.insecure_channel(served.target) as channel, pytest.raises(grpc.RpcError) as caught:
        list(rcjax_pb2_grpc.RecommenderStub(channel).Generate(rcjax_pb2.GenerateRequest(), timeout=60))
    assert "set text or request" in caught.value.details()


@pytest.mark.parametrize("how", ["closes", "vanishes"])
def test_a_reader_who_goes_stops_it_and_frees_its_pages(served, stocked, how):
    passes = stocked.executor.decode
    num_passes = 0

    def counted(*args):
        nonlocal num_passes
        num_passes += 1
        return passes(*args)

    stocked.executor.decode = counted
    if how == "closes":
        pieces = served.generate(LONG)
        next(pieces)
        pieces.close()
    else:
        channel = grpc.insecure_channel(served.target)
        asked = rcjax_pb2.GenerateRequest(text=LONG.prompt, max_new_tokens=LONG.max_new_tokens)
        next(rcjax_pb2_grpc.RecommenderStub(channel).Generate(asked))
        channel.close()
    until(lambda: stocked.worker.num_waiting == 0 and not len(stocked.router._calls))
    until(lambda: stocked.cache.num_claims == 0)
    assert_idle(stocked)
    assert num_passes < LONG.max_new_tokens
    assert stocked.library.versions.oldest == stocked.library.versions.begin_read()


def test_who_does_not_read_is_told_so_and_holds_no_pages(stocked):
    """The loop stands still, as a reader's connection that takes nothing more would have it."""

    async def main() -> None:
        async with aclosing(stocked.router.generate(LONG)) as parts:
            first = await anext(parts)
            until(lambda: stocked.worker.num_waiting == 0)
            assert_idle(stocked)
            kept = await anext(parts)
            assert len(kept.token_ids) == MAX_UNREAD_TOKENS
            assert len(first.token_ids) < 100
            with pytest.raises(ResourceExhaustedError, match=f"{MAX_UNREAD_TOKENS} tokens of this generation wait"):
                await anext(parts)

    asyncio.run(main())


def test_a_stream_ranks_as_single_calls_do(served, stocked):
    asks = [
        RecommendRequest(candidates, "u", arm=arm)
        for candidates in (("i1", "i2"), ("i3", "i1", "i2"), ("i2",), ("i9",))
        for arm in ("parallel_anchor_blocks", "sequential_label_prefix")
    ]
    alone = stocked.recommend(asks)
    answers = {answer.index: answer.outcome for answer in served.recommend_stream(asks)}
    assert len(answers) == len(asks)
    for index, expected in enumerate(alone):
        if isinstance(expected, NotFoundError):
            assert answers[index].field == expected.field
        else:
            assert [one.item_id for one in answers[index].ranking] == [one.item_id for one in expected.ranking]
            found = [one.score for one in answers[index].ranking]
            assert found == pytest.approx([one.score for one in expected.ranking], abs=1e-5)
    assert_idle(stocked)


def test_a_sender_who_vanishes_leaves_nothing_pinned(served, stocked):
    """With dozens of requests in every stage: planned, being built, running."""

    def asks():
        for number in range(300):
            inline = tuple(item(at) for at in range(10 * number, 10 * number + 4))  # which have to be built
            message = codec.request_to_message(RecommendRequest(inline, "u", arm="parallel_anchor_blocks"))
            yield rcjax_pb2.RecommendStreamRequest(request=message)

    channel = grpc.insecure_channel(served.target)
    stream = rcjax_pb2_grpc.RecommenderStub(channel).RecommendStream(asks())
    next(stream)
    channel.close()
    until(lambda: stocked.worker.num_waiting == 0 and not len(stocked.router._calls))
    until(lambda: stocked.cache.num_claims == 0)
    assert_idle(stocked)
    assert stocked.stats().num_requests < 300
    assert stocked.library.versions.oldest == stocked.library.versions.begin_read()
    assert len(list(served.recommend_stream([RecommendRequest(("i1",), "u")]))) == 1


def test_a_catalogue_goes_in_but_for_the_chunk_that_cannot(served, stocked):
    catalogue = [item(number) for number in range(10, 22)]
    catalogue[4] = item(14, text="mug " * 100)  # over max_item_tokens
    progress = list(served.put_items_stream(catalogue, chunk_items=3))
    assert [one.num_built for one in progress] == [3, 0, 3, 3]
    assert [(one.num_items, one.num_failed) for one in progress] == [(3, 0), (3, 3), (6, 3), (9, 3)]
    assert [one.error and one.error.field for one in progress] == [None, "items[1]", None, None]
    assert {one.id for one in stocked.library.item_owners} == {
        f"i{number}" for number in (1, 2, 3, 10, 11, 12, *range(16, 22))
    }


def test_the_same_catalogue_again_costs_nothing(served, stocked):
    catalogue = [item(number) for number in range(10, 22)]
    first = sum(one.num_built for one in served.put_items_stream(catalogue, chunk_items=5))
    again = sum(one.num_built for one in served.put_items_stream(catalogue, chunk_items=4))
    assert (first, again) == (12, 0)

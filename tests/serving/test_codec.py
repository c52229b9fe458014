"""Whatever the engine's types can say survives the wire.

Strategies draw plain tuples and the tests make the types of them: the runtime type checker uses `random`,
which hypothesis does not allow inside a strategy.
"""

from dataclasses import fields

from hypothesis import example, given, settings
from hypothesis import strategies as st

from rcjax.catalog.types import Event, Item, User
from rcjax.request import (
    EngineInfo,
    EngineStats,
    RankedItem,
    RecommendRequest,
    RecommendResult,
    ServiceLimits,
    SliceStats,
    StageTimes,
    TokenCounts,
)
from rcjax.serving import codec
from rcjax.serving.v1 import rcjax_pb2

texts = st.text(st.characters(codec="utf-8"), max_size=8)
several_texts = st.lists(texts, max_size=3).map(tuple)
counts = st.integers(0, 2**31 - 1)
big_counts = st.integers(0, 2**63 - 1)
floats = st.floats(allow_nan=False)
items = st.tuples(texts, texts, texts, texts, several_texts, st.none() | floats)
events = st.tuples(texts, texts, texts, st.none() | floats, st.none() | st.integers(-(2**63), 2**63 - 1))
histories = st.lists(events, max_size=3)
token_counts = st.tuples(*[big_counts] * len(fields(TokenCounts)))
stage_times = st.tuples(*[floats] * len(fields(StageTimes)))


def history_of(drawn: list) -> tuple[Event, ...]:
    return tuple(Event(*fields) for fields in drawn)


@settings(deadline=None)
@given(st.lists(texts | items, max_size=3), texts, st.none() | histories, st.integers(-(2**31), 2**31 - 1), texts)
def test_request(candidates: list, user_id: str, history: list | None, top_k: int, arm: str) -> None:
    request = RecommendRequest(
        candidates=tuple(drawn if isinstance(drawn, str) else Item(*drawn) for drawn in candidates),
        user_id=user_id,
        history=None if history is None else history_of(history),
        top_k=top_k,
        arm=arm,
    )
    data = codec.request_to_message(request).SerializeToString()
    assert codec.request_from_message(rcjax_pb2.RecommendRequest.FromString(data), request.tenant) == request


@settings(deadline=None)
@given(st.lists(st.tuples(texts, floats, counts), max_size=3), token_counts, stage_times, texts, counts)
def test_result(ranking: list, tokens: tuple, times: tuple, arm: str, slice_index: int) -> None:
    ranked = tuple(RankedItem(*fields) for fields in ranking)
    result = RecommendResult(ranked, TokenCounts(*tokens), StageTimes(*times), arm, slice_index)
    data = codec.result_to_message(result).SerializeToString()
    assert codec.result_from_message(rcjax_pb2.RecommendResponse.FromString(data)) == result


@settings(deadline=None)
@given(items)
@example(("i", "", "", "", (), 0.0))  # free, not of unknown price
def test_item(fields: tuple) -> None:
    item = Item(*fields)
    data = codec.item_to_message(item).SerializeToString()
    assert codec.item_from_message(rcjax_pb2.Item.FromString(data)) == item


@settings(deadline=None)
@given(texts, histories)
@example("u", [("i", "", "", 0.0, 0)])  # rated 0 in 1970
def test_user(user_id: str, history: list) -> None:
    user = User(user_id, history_of(history))
    data = codec.user_to_message(user).SerializeToString()
    assert codec.user_from_message(rcjax_pb2.User.FromString(data)) == user


@settings(deadline=None)
@given(several_texts, counts, st.tuples(*[counts] * (len(fields(ServiceLimits)) - 1), floats))
def test_info(arms: tuple[str, ...], count: int, limits: tuple) -> None:
    fields = ("model", "f", "t", "bfloat16", "cpu", "0.1", 16, count, count, count, arms, "full", "auto", count, count)
    info = EngineInfo(*fields, limits=ServiceLimits(*limits))
    data = codec.info_to_message(info).SerializeToString()
    assert codec.info_from_message(rcjax_pb2.InfoResponse.FromString(data)) == info


slice_stats = st.tuples(texts, floats, *[big_counts] * (len(fields(SliceStats)) - 2))


@settings(deadline=None)
@given(
    st.lists(big_counts, min_size=11, max_size=11),
    token_counts,
    st.lists(slice_stats, max_size=3),
    st.tuples(texts, big_counts, big_counts, floats, *[big_counts] * 8),
)
def test_stats(numbers: list[int], tokens: tuple, slices: list[tuple], routing: tuple) -> None:
    of_slices = tuple(SliceStats(*one) for one in slices)
    stats = EngineStats(*numbers, TokenCounts(*tokens), of_slices, *routing)
    data = codec.stats_to_message(stats).SerializeToString()
    assert codec.stats_from_message(rcjax_pb2.StatsResponse.FromString(data)) == stats

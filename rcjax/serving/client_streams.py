"""What a client sends over streams of many requests, and what comes back."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from rcjax.catalog.types import Item
from rcjax.errors import RcjaxError
from rcjax.request import RecommendRequest, RecommendResult
from rcjax.serving import codec
from rcjax.serving.rpcs import recommend_message
from rcjax.serving.sendable import check_size, named_texts
from rcjax.serving.status import from_rpc_status
from rcjax.serving.v1 import rcjax_pb2

RECOMMEND_STREAM = "/rcjax.v1.Recommender/RecommendStream"
PUT_ITEMS_STREAM = "/rcjax.v1.Catalog/PutItemsStream"
CHUNK_ITEMS = 100  # a few passes of building; the most that a broken stream has to send again


@dataclass(frozen=True, slots=True)
class StreamAnswer:
    """What became of the request that was sent as number `index`, from 0."""

    index: int
    outcome: RecommendResult | RcjaxError


@dataclass(frozen=True, slots=True)
class PutProgress:
    """What became of a chunk of a catalogue: `num_built` blocks were computed, or nothing of it is in, for `error`.

    `num_items` are in so far, `num_failed` were in chunks that failed.
    """

    chunk_index: int
    num_built: int
    error: RcjaxError | None
    num_items: int
    num_failed: int


def entry_message(request: RecommendRequest, timeout_s: float) -> rcjax_pb2.RecommendStreamRequest:
    message = rcjax_pb2.RecommendStreamRequest(request=recommend_message(request), timeout_s=timeout_s)
    check_size(message)
    return message


def answer_from_message(message: rcjax_pb2.RecommendStreamResponse) -> StreamAnswer:
    if message.WhichOneof("outcome") == "error":
        return StreamAnswer(message.index, from_rpc_status(message.error))
    return StreamAnswer(message.index, codec.result_from_message(message.response))


def chunk_messages(items: Iterable[Item], chunk_items: int) -> Iterator[rcjax_pb2.PutItemsStreamRequest]:
    """Items in chunks of `chunk_items`, the last one perhaps smaller."""
    left = iter(items)
    while chunk := tuple(islice(left, chunk_items)):
        yield chunk_message(chunk)


def chunk_message(items: tuple[Item, ...]) -> rcjax_pb2.PutItemsStreamRequest:
    with named_texts(items=items):
        message = rcjax_pb2.PutItemsStreamRequest(items=map(codec.item_to_message, items))
    check_size(message)
    return message


def progress_from_message(message: rcjax_pb2.PutItemsStreamResponse) -> PutProgress:
    error = from_rpc_status(message.error) if message.WhichOneof("outcome") == "error" else None
    return PutProgress(message.chunk_index, message.put.num_built, error, message.num_items, message.num_failed)

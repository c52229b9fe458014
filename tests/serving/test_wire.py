"""Which field of an unparsable message holds text that is not UTF-8: bytes written by hand."""

import pytest

from rcjax.errors import InvalidRequestError
from rcjax.serving.v1 import rcjax_pb2
from rcjax.serving.wire import explain_decode_error

BAD = b"caf\xe9"  # Latin-1


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field, as the wire format defines it."""
    assert len(content) < 128
    return bytes([number << 3 | 2, len(content)]) + content


GOOD_ITEM = field(1, b"a") + field(2, b"Title") + b"\x31" + bytes(8)  # field 6, price 0.0


@pytest.mark.parametrize(
    ("data", "path"),
    [
        (field(1, BAD), "user_id"),
        (field(2, field(1, b"a")) + field(2, field(1, BAD)), "candidates[1].item_id"),
        (field(2, field(2, GOOD_ITEM + field(5, b"ok") + field(5, BAD))), "candidates[0].item.categories[1]"),
        (b"\x20\x03" + field(3, field(1, field(3, BAD))), "history.events[0].text"),  # after top_k = 3
    ],
)
def test_the_field_with_the_bad_text_is_named(data: bytes, path: str) -> None:
    error = explain_decode_error(data, rcjax_pb2.RecommendRequest.DESCRIPTOR)
    assert isinstance(error, InvalidRequestError)
    assert (error.field, error.message) == (path, f"{path} is not valid UTF-8")


@pytest.mark.parametrize("data", [b"\x0a\x05ab", b"\xff\xff\xff", field(2, b"\x0a\x09")])
def test_bytes_that_are_no_message_name_the_message(data: bytes) -> None:
    error = explain_decode_error(data, rcjax_pb2.RecommendRequest.DESCRIPTOR)
    assert (error.field, error.message) == ("", "the request is not a valid rcjax.v1.RecommendRequest message")

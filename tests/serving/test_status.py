"""Each error's code and details, and the way back to it in the client."""

import pytest
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2

from rcjax.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    RcjaxError,
    ResourceExhaustedError,
    UnavailableError,
)
from rcjax.serving.status import MAX_MESSAGE_BYTES, to_rpc_status
from rcjax.serving.v1 import rcjax_pb2


def details(error: RcjaxError, request: Message | None = None) -> dict[str, Message]:
    """The details by message name, unpacked."""
    unpacked = {}
    for packed in to_rpc_status(error, request).details:
        name = packed.TypeName().removeprefix("google.rpc.")
        unpacked[name] = getattr(error_details_pb2, name)()
        assert packed.Unpack(unpacked[name])
    return unpacked


@pytest.mark.parametrize(
    ("error", "code", "names"),
    [
        (InvalidRequestError("bad"), code_pb2.INVALID_ARGUMENT, {"ErrorInfo", "BadRequest"}),
        (NotFoundError("gone"), code_pb2.NOT_FOUND, {"ErrorInfo", "ResourceInfo"}),
        (ResourceExhaustedError("full"), code_pb2.RESOURCE_EXHAUSTED, {"ErrorInfo", "RetryInfo"}),
        (DeadlineExceededError("late"), code_pb2.DEADLINE_EXCEEDED, {"ErrorInfo"}),
        (PermissionDeniedError("not yours"), code_pb2.PERMISSION_DENIED, {"ErrorInfo"}),
        (UnavailableError("closed"), code_pb2.UNAVAILABLE, {"ErrorInfo"}),
        (RcjaxError("broken"), code_pb2.INTERNAL, {"ErrorInfo"}),
    ],
)
def test_code_and_kinds_of_details(error: RcjaxError, code: int, names: set[str]) -> None:
    status = to_rpc_status(error)
    assert (status.code, status.message) == (code, error.message)
    found = details(error)
    assert set(found) == names
    assert (found["ErrorInfo"].domain, found["ErrorInfo"].reason) == ("rcjax", code_pb2.Code.Name(code))
    assert not found["ErrorInfo"].metadata


def test_invalid_request_names_its_field() -> None:
    found = details(InvalidRequestError("top_k is 9", field="top_k"))
    (violation,) = found["BadRequest"].field_violations
    assert (violation.field, violation.description) == ("top_k", "top_k is 9")
    assert dict(found["ErrorInfo"].metadata) == {"field": "top_k"}


@pytest.mark.parametrize(
    ("field", "kind", "name"),
    [
        ("user_id", "rcjax.v1.User", "ann"),
        ("candidates[1].item_id", "rcjax.v1.Item", "b"),
        ("candidates[7].item_id", "rcjax.v1.Item", ""),  # not in the request
        ("nonsense.path[0]", "rcjax.v1.Item", ""),
    ],
)
def test_not_found_names_the_resource(field: str, kind: str, name: str) -> None:
    candidates = [rcjax_pb2.Candidate(item_id="a"), rcjax_pb2.Candidate(item_id="b")]
    request = rcjax_pb2.RecommendRequest(user_id="ann", candidates=candidates)
    resource = details(NotFoundError("gone", field=field), request)["ResourceInfo"]
    assert (resource.resource_type, resource.resource_name, resource.description) == (kind, name, "gone")


def test_not_found_names_a_user_within_a_message() -> None:
    request = rcjax_pb2.PutUserRequest(user=rcjax_pb2.User(user_id="ann"))
    resource = details(NotFoundError("gone", field="user.user_id"), request)["ResourceInfo"]
    assert (resource.resource_type, resource.resource_name) == ("rcjax.v1.User", "ann")


@pytest.mark.parametrize(("retry_after_s", "nanoseconds"), [(None, 10**9), (0.0025, 2_500_000), (61.5, 61_500_000_000)])
def test_when_to_retry(retry_after_s: float | None, nanoseconds: int) -> None:
    retry = details(ResourceExhaustedError("full", retry_after_s=retry_after_s))["RetryInfo"]
    assert retry.retry_delay.ToNanoseconds() == nanoseconds


def test_long_message_is_shortened_between_characters() -> None:
    message = to_rpc_status(InvalidRequestError("é" * MAX_MESSAGE_BYTES)).message
    assert MAX_MESSAGE_BYTES - 2 <= len(message.encode()) <= MAX_MESSAGE_BYTES
    assert message.rstrip(".") == "é" * (len(message) - 3)

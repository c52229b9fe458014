"""Failures on the wire: an `RcjaxError` becomes a `google.rpc.Status`, and on the client one again."""

import re
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from rcjax.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    NotFoundError,
    RcjaxError,
    ResourceExhaustedError,
    UnavailableError,
)

DOMAIN = "rcjax"
RETRY_DELAY_S = 1

# gRPC allows 8 KiB for all trailing metadata. The message is there three times: percent-encoded (up to x3),
# and twice within the base64 of the details (x4/3 each).
MAX_MESSAGE_BYTES = 1024

_CODES: dict[type[RcjaxError], grpc.StatusCode] = {
    InvalidRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    NotFoundError: grpc.StatusCode.NOT_FOUND,
    ResourceExhaustedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DeadlineExceededError: grpc.StatusCode.DEADLINE_EXCEEDED,
    UnavailableError: grpc.StatusCode.UNAVAILABLE,
    RcjaxError: grpc.StatusCode.INTERNAL,  # last, as the others are subclasses
}
_TYPES = {code: error_type for error_type, code in _CODES.items()}


def to_rpc_status(error: RcjaxError, request: Message | None = None) -> status_pb2.Status:
    """The status that tells a client of `error`, with details by kind; `request` is what `error.field` names."""
    code = next(code for error_type, code in _CODES.items() if isinstance(error, error_type))
    message = _shortened(error.message)
    info = error_details_pb2.ErrorInfo(reason=code.name, domain=DOMAIN)
    if error.field:
        info.metadata["field"] = error.field
    details: list[Message] = [info]
    if isinstance(error, InvalidRequestError):
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=message)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    elif isinstance(error, NotFoundError):
        kind = "rcjax.v1.User" if error.field.endswith("user_id") else "rcjax.v1.Item"
        name = _shortened(_value_at(request, error.field))
        details.append(error_details_pb2.ResourceInfo(resource_type=kind, resource_name=name, description=message))
    elif isinstance(error, ResourceExhaustedError):
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromSeconds(RETRY_DELAY_S)
        details.append(retry)
    return status_pb2.Status(code=code.value[0], message=message, details=[_packed(part) for part in details])


def from_rpc_error(error: grpc.RpcError) -> RcjaxError:
    """The `RcjaxError` that the server raised, or the nearest one to a failure of gRPC itself."""
    call: Any = error  # every RpcError that a channel raises is also a grpc.Call
    code, message, field = call.code(), call.details() or call.code().name, ""
    status = rpc_status.from_call(call)
    for detail in status.details if status is not None else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info) and info.domain == DOMAIN:
            field = info.metadata.get("field", "")
    if code not in _TYPES:
        return RcjaxError(f"{code.name}: {message}", field=field)
    return _TYPES[code](message, field=field)


def _packed(detail: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(detail)
    return packed


def _shortened(message: str) -> str:
    encoded = message.encode("utf-8", errors="replace")
    if len(encoded) <= MAX_MESSAGE_BYTES:
        return encoded.decode()
    return encoded[: MAX_MESSAGE_BYTES - 3].decode(errors="ignore") + "..."


def _value_at(message: Any, path: str) -> str:
    """The value that a field path such as `candidates[3].item_id` names, or "" where there is none."""
    for name, index in re.findall(r"(\w+)(?:\[(\d+)\])?", path):
        message = getattr(message, name, "")
        if index:
            message = message[int(index)] if int(index) < len(message) else ""
    return message if isinstance(message, str) else ""

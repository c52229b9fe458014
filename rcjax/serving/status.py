"""Failures on the wire: an `RcjaxError` becomes a `google.rpc.Status`, and on the client one again."""

import re
from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from rcjax.engine.request_id import current_request_id
from rcjax.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    RcjaxError,
    ResourceExhaustedError,
    UnauthenticatedError,
    UnavailableError,
)

DOMAIN = "rcjax"
RETRY_DELAY_S = 1.0  # where an error does not say when to come back

# gRPC allows 8 KiB for all trailing metadata. The message is there three times: percent-encoded (up to x3),
# and twice within the base64 of the details (x4/3 each).
MAX_MESSAGE_BYTES = 1024

_CODES: dict[type[RcjaxError], grpc.StatusCode] = {
    InvalidRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    NotFoundError: grpc.StatusCode.NOT_FOUND,
    ResourceExhaustedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DeadlineExceededError: grpc.StatusCode.DEADLINE_EXCEEDED,
    UnavailableError: grpc.StatusCode.UNAVAILABLE,
    UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    PermissionDeniedError: grpc.StatusCode.PERMISSION_DENIED,
    RcjaxError: grpc.StatusCode.INTERNAL,  # last, as the others are subclasses
}
_TYPES = {code: error_type for error_type, code in _CODES.items()}


def code_of(error: BaseException) -> grpc.StatusCode:
    """What callers are told; INTERNAL for what is none of our errors."""
    return next((code for kind, code in _CODES.items() if isinstance(error, kind)), grpc.StatusCode.INTERNAL)


def to_rpc_status(error: RcjaxError, request: Message | None = None) -> status_pb2.Status:
    """The status that tells a client of `error`, with details by kind; `request` is what `error.field` names."""
    code = code_of(error)
    message = _shortened(error.message)
    info = error_details_pb2.ErrorInfo(reason=code.name, domain=DOMAIN)
    if error.field:
        info.metadata["field"] = error.field
    if request_id := current_request_id():
        info.metadata["request_id"] = request_id
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
        retry_after_s = RETRY_DELAY_S if error.retry_after_s is None else error.retry_after_s
        retry.retry_delay.FromNanoseconds(round(retry_after_s * 1e9))
        details.append(retry)
    return status_pb2.Status(code=code.value[0], message=message, details=[_packed(part) for part in details])


async def abort_with(context: Any, error: RcjaxError, request: Message | None = None) -> Any:
    """Ends an RPC with `to_rpc_status`; never returns, as gRPC's abort raises."""
    status = rpc_status.to_status(to_rpc_status(error, request))
    return await context.abort(status.code, status.details, status.trailing_metadata)


def from_rpc_error(error: grpc.RpcError) -> RcjaxError:
    """The `RcjaxError` that the server raised, or the nearest one to a failure of gRPC itself."""
    call: Any = error  # every RpcError that a channel raises is also a grpc.Call
    code = call.code()
    status = rpc_status.from_call(call)
    return _error_of(code, call.details() or code.name, status.details if status is not None else ())


def from_rpc_status(status: status_pb2.Status) -> RcjaxError:
    """The `RcjaxError` that `to_rpc_status` told of, as within a stream."""
    code = next((code for code in grpc.StatusCode if code.value[0] == status.code), grpc.StatusCode.UNKNOWN)
    return _error_of(code, status.message or code.name, status.details)


def _error_of(code: grpc.StatusCode, message: str, details: Iterable[AnyMessage]) -> RcjaxError:
    field = ""
    retry_after_s: float | None = None
    for detail in details:
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if detail.Unpack(info) and info.domain == DOMAIN:
            field = info.metadata.get("field", "")
        elif detail.Unpack(retry):
            retry_after_s = retry.retry_delay.ToNanoseconds() / 1e9
    if code not in _TYPES:
        return RcjaxError(f"{code.name}: {message}", field=field)
    if _TYPES[code] is ResourceExhaustedError:
        return ResourceExhaustedError(message, field=field, retry_after_s=retry_after_s)
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

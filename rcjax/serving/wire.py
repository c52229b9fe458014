"""What is wrong with bytes that protobuf could not parse: which field holds text that is not UTF-8."""

from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor
from google.protobuf.message import DecodeError, Message

from rcjax.errors import InvalidRequestError

_STRING = descriptor_pb2.FieldDescriptorProto.TYPE_STRING
_BYTES = descriptor_pb2.FieldDescriptorProto.TYPE_BYTES


def explain_decode_error(data: bytes, wanted: Descriptor) -> InvalidRequestError:
    """The error to answer with when `data` does not parse as `wanted`."""
    try:
        message = _bytes_twin(wanted).FromString(data)
    except DecodeError:
        return InvalidRequestError(f"the request is not a valid {wanted.full_name} message")
    path = _path_of_bad_text(message, wanted)
    if path is None:
        return InvalidRequestError(f"the request is not a valid {wanted.full_name} message")
    return InvalidRequestError(f"{path} is not valid UTF-8", field=path)


@cache
def _bytes_twin(wanted: Descriptor) -> type[Message]:
    """The message type with the same fields on the wire as `wanted`, its strings read as bytes."""
    pool = descriptor_pool.DescriptorPool()
    for twin in _twin_files(wanted.file).values():
        pool.Add(twin)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(wanted.full_name))


def _twin_files(file: FileDescriptor) -> dict[str, descriptor_pb2.FileDescriptorProto]:
    """By name, the file and all that it imports, each after its own imports."""
    twins: dict[str, descriptor_pb2.FileDescriptorProto] = {}
    for dependency in file.dependencies:
        twins |= _twin_files(dependency)
    twin = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(twin)
    for message_type in twin.message_type:
        _read_strings_as_bytes(message_type)
    return twins | {file.name: twin}


def _read_strings_as_bytes(message_type: descriptor_pb2.DescriptorProto) -> None:
    for nested in message_type.nested_type:
        _read_strings_as_bytes(nested)
    for field in message_type.field:
        is_map_key = message_type.options.map_entry and field.number == 1  # protobuf allows no bytes there
        if field.type == _STRING and not is_map_key:
            field.type = _BYTES


def _path_of_bad_text(message: Message, wanted: Descriptor) -> str | None:
    for twin_field, value in message.ListFields():
        field: FieldDescriptor = wanted.fields_by_number[twin_field.number]
        is_single = isinstance(value, (bytes, int, float, Message))  # else a container of these
        for index, element in enumerate([value] if is_single else value):
            below = _path_below(element, field)
            if below is not None:
                return (field.name if is_single else f"{field.name}[{index}]") + below
    return None


def _path_below(element: Any, field: FieldDescriptor) -> str | None:
    """What leads from `element` to bad text: "" where it is that text itself, None where there is none."""
    if field.message_type is not None:
        below = _path_of_bad_text(element, field.message_type)
        return None if below is None else f".{below}"
    if field.type != FieldDescriptor.TYPE_STRING:
        return None
    try:
        element.decode()
    except UnicodeDecodeError:
        return ""
    return None

"""The page of the gRPC API, from the descriptors and comments of its .proto file."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc_tools
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)
from google.rpc import status_pb2
from grpc_tools import protoc
from repository import ROOT, with_links_to_pages
from tables import table

PAGE = "reference/grpc.md"

Place = tuple[int, ...]  # where something stands in a FileDescriptorProto: numbers of fields, and indices

_SYNTAX, _MESSAGES, _SERVICES = 12, 4, 6  # fields of FileDescriptorProto
_METHODS = 2  # of ServiceDescriptorProto
_FIELDS, _NESTED, _ENUMS, _ONEOFS = 2, 3, 4, 8  # of DescriptorProto
_VALUES = 2  # of EnumDescriptorProto


def grpc_page(proto: Path) -> str:
    """Markdown: the file's head, each service with its calls, each message with its fields."""
    return "\n".join(_Page(file_descriptor(proto)).lines())


def file_descriptor(proto: Path) -> FileDescriptorProto:
    """What protoc reads in a file of the repository, comments too."""
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    status = Path(status_pb2.__file__).parents[2]
    with TemporaryDirectory() as folder:
        out = Path(folder, "set")
        includes = [f"-I{path}" for path in (ROOT, status, well_known)]
        arguments = ["--include_source_info", f"--descriptor_set_out={out}", str(proto.relative_to(ROOT))]
        if protoc.main(["protoc", *includes, *arguments]):
            raise ValueError(f"protoc cannot read {proto}; it has said why")
        (descriptor,) = FileDescriptorSet.FromString(out.read_bytes()).file
    return descriptor


class _Page:
    def __init__(self, file: FileDescriptorProto) -> None:
        self.file = file
        self.comments = {
            tuple(each.path): each.leading_comments + each.trailing_comments for each in file.source_code_info.location
        }

    def lines(self) -> Iterator[str]:
        yield f"# gRPC API\n\nPackage `{self.file.package}`.\n"
        yield self._comment((_SYNTAX,)) + "\n"
        for index, service in enumerate(self.file.service):
            name = f"{self.file.package}.{service.name}"
            yield f"## {service.name} {{ #{name} }}\n\n{self._comment((_SERVICES, index))}\n"
            for number, method in enumerate(service.method):
                asked = self._streamed(method.client_streaming, method.input_type)
                answered = self._streamed(method.server_streaming, method.output_type)
                yield f"### {method.name} {{ #{name}.{method.name} }}\n\n{asked} → {answered}\n"
                yield self._comment((_SERVICES, index, _METHODS, number)) + "\n"
        yield "## Messages\n\nWhat is said of a field may hold for those below it that have no words of their own.\n"
        for index, message in enumerate(self.file.message_type):
            yield from self._message(message, self.file.package, (_MESSAGES, index))

    def _message(self, message: DescriptorProto, package: str, place: Place) -> Iterator[str]:
        name = f"{package}.{message.name}"
        yield f"### {name.removeprefix(self.file.package + '.')} {{ #{name} }}\n\n{self._comment(place)}\n"
        for index, oneof in enumerate(message.oneof_decl):
            fields = [f for f in message.field if f.HasField("oneof_index") and f.oneof_index == index]
            if not fields[0].proto3_optional:
                names = ", ".join(f"`{field.name}`" for field in fields)
                yield f"`{oneof.name}` is one of {names}. {self._comment((*place, _ONEOFS, index))}\n"
        rows = [
            (f"`{field.name}`{{ #{name}.{field.name} }}", self._type(field), str(field.number), comment)
            for index, field in enumerate(message.field)
            for comment in [self._comment((*place, _FIELDS, index))]
        ]
        yield table(("field", "type", "number", "meaning"), rows) if rows else "It has no fields.\n"
        for index, enum in enumerate(message.enum_type):
            yield from self._enum(enum, name, (*place, _ENUMS, index))
        for index, nested in enumerate(message.nested_type):
            yield from self._message(nested, name, (*place, _NESTED, index))

    def _enum(self, enum: EnumDescriptorProto, package: str, place: Place) -> Iterator[str]:
        name = f"{package}.{enum.name}"
        yield f"#### {enum.name} {{ #{name} }}\n\n{self._comment(place)}\n"
        values = [
            (f"`{value.name}`", str(value.number), self._comment((*place, _VALUES, index)))
            for index, value in enumerate(enum.value)
        ]
        yield table(("value", "number", "meaning"), values)

    def _type(self, field: FieldDescriptorProto) -> str:
        named = field.type in (FieldDescriptorProto.TYPE_MESSAGE, FieldDescriptorProto.TYPE_ENUM)
        kind = self._link(field.type_name) if named else FieldDescriptorProto.Type.Name(field.type)[5:].lower()
        if field.label == FieldDescriptorProto.LABEL_REPEATED:
            return f"repeated {kind}"
        return f"optional {kind}" if field.proto3_optional else kind

    def _streamed(self, is_stream: bool, name: str) -> str:
        return f"stream of {self._link(name)}" if is_stream else self._link(name)

    def _link(self, name: str) -> str:
        full = name.removeprefix(".")
        own = full.removeprefix(self.file.package + ".")
        return f"`{full}`" if own == full else f"[{own}](#{full})"

    def _comment(self, place: Place) -> str:
        """A comment as Markdown: what it indents, it lays out."""
        lines: list[str] = []
        is_laid_out = False
        for line in [*self.comments.get(place, "").splitlines(), ""]:
            if line.startswith("   ") != is_laid_out:
                is_laid_out = not is_laid_out
                lines.append("\n```text" if is_laid_out else "```\n")
            lines.append(line[3:] if is_laid_out else line.strip())
        return with_links_to_pages("\n".join(lines).strip(), PAGE)

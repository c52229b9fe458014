"""The committed generated code is that of the committed rcjax.proto, whichever protoc made it."""

import inspect
from importlib.resources import files
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.rpc import status_pb2

from rcjax.serving.v1 import rcjax_pb2, rcjax_pb2_grpc

PROTO = "rcjax/serving/v1/rcjax.proto"
FOLDER = Path(str(files("rcjax.serving.v1")))


def without_json_names(file: FileDescriptorProto) -> FileDescriptorProto:
    """protoc writes the default JSON names into a descriptor set, but not into generated code."""
    for message in file.message_type:
        for field in message.field:
            field.ClearField("json_name")
    return file


def test_generated_code_has_the_descriptor_of_the_proto_file(tmp_path: Path) -> None:
    protoc = pytest.importorskip("grpc_tools.protoc")
    out = tmp_path / "set"
    folders = [FOLDER.parents[2], Path(status_pb2.__file__).parents[2], files("grpc_tools") / "_proto"]
    imports = [f"-I{folder}" for folder in folders]
    assert protoc.main(["protoc", *imports, f"--descriptor_set_out={out}", PROTO]) == 0
    (compiled,) = FileDescriptorSet.FromString(out.read_bytes()).file
    committed = FileDescriptorProto()
    rcjax_pb2.DESCRIPTOR.CopyToProto(committed)
    assert without_json_names(committed) == without_json_names(compiled)


def test_stubs_and_servicers_have_every_method() -> None:
    for name, service in rcjax_pb2.DESCRIPTOR.services_by_name.items():
        servicer = getattr(rcjax_pb2_grpc, f"{name}Servicer")
        stub = inspect.getsource(getattr(rcjax_pb2_grpc, f"{name}Stub"))
        assert {m for m in vars(servicer) if not m.startswith("_")} == set(service.methods_by_name)
        assert all(f"/rcjax.v1.{name}/{method}'" in stub for method in service.methods_by_name)


def test_type_stub_has_every_field() -> None:
    text = (FOLDER / "rcjax_pb2.pyi").read_text()
    classes = {part.split("(")[0]: part for part in text.split("\nclass ")[1:]}
    messages = rcjax_pb2.DESCRIPTOR.message_types_by_name
    assert set(classes) == set(messages)
    for name, message in messages.items():
        numbers = {f"{field.name.upper()}_FIELD_NUMBER" for field in message.fields}
        assert {word for word in classes[name].replace(":", " ").split() if "_FIELD_NUMBER" in word} == numbers

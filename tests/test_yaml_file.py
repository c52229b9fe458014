"""YAML files into models: what is wrong is a line each, with the file, the field, its value and what to do."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ByteSize, Field, ValidationError, field_validator

from rcjax.config.strict import StrictModel
from rcjax.yaml_file import error_lines, parse_yaml, read_yaml


class Part(StrictModel):
    size: int = Field(1, ge=1)

    @field_validator("size")
    @classmethod
    def _even(cls, size: int) -> int:
        if size == 13:
            raise ValueError("13 brings\nno luck; take another")
        return size


class Whole(StrictModel):
    name: str
    parts: dict[str, Part] = Field(default_factory=dict)
    spare: Part | None = None
    pairs: tuple[tuple[int, ...], ...] = Field((), max_length=2)
    room: ByteSize = ByteSize(1)


GOOD = "name: a\nparts: {one: {size: 2}}\npairs: [[1, 2], [3]]\nroom: 1 KiB\n"


def lines(text: str) -> list[str]:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        parse_yaml(text, "f.yaml", Whole)
    return str(caught.value).split("\n")


def test_a_right_one_is_read():
    whole = parse_yaml("\ufeff" + GOOD, "f.yaml", Whole)
    assert whole.parts["one"].size == 2
    assert whole.room == 1024


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "f.yaml: name is missing; give it"),
        ("name: 3", "f.yaml: name=3: must be a valid string"),
        ("name: a\nnames: b", "f.yaml: names is not known here; there are name, parts, spare, pairs, room"),
        ("name: a\nparts: {one: {sise: 2}}", "f.yaml: parts.one.sise is not known here; there are size"),
        ("name: a\nspare: {sise: 2}", "f.yaml: spare.sise is not known here; there are size"),
        ("name: a\nparts: {one: {size: 0}}", "f.yaml: parts.one.size=0: must be greater than or equal to 1"),
        ("name: a\nparts: {one: {size: 13}}", "f.yaml: parts.one.size: 13 brings no luck; take another"),
        ("name: a\nparts: [1]", "f.yaml: parts is [1]; it must be a mapping of names to values"),
        ("name: a\nspare: 7", "f.yaml: spare is 7; it must be a mapping of names to values"),
        ("[a]", "f.yaml: it is ['a']; it must be a mapping of names to values"),
        ("false", "f.yaml: it is False; it must be a mapping of names to values"),
        (
            "name: a\nroom: much",
            "f.yaml: room='much': could not parse value and unit from byte string; write bytes, or a size such as "
            "1 GiB",
        ),
        ("name: a\nname: b", "f.yaml, line 2, column 1: 'name' stands there twice; keep one"),
        ("name: a\nparts: {x: {size: 1}, x: {size: 2}}", "f.yaml, line 2, column 23: 'x' stands there twice; keep one"),
        ("name: [", "f.yaml, line 1, column 8: expected the node content, but found '<stream end>'"),
        ("name: !!python/name:os.system x", None),
        ("name: \0", None),
        ("name: 2020-13-45", None),
        ("name: !!bool maybe", None),
        ("name: " + "[" * 20_000, "f.yaml: YAML that is nested too deeply"),
        ("name: 0x" + "f" * 6_000, "f.yaml: name=a number of more than 4,300 digits: must be a valid string"),
        ("name: " + "9" * 6_000, None),
        ("name: !!int ''", None),
        ('name: "a\\ud83d"', "f.yaml, line 1, column 7: \\ud83d is half a surrogate pair, no character; take it away"),
    ],
)
def test_what_is_wrong_is_a_line(text: str, line: str | None):
    (said,) = lines(text)
    assert said.startswith("f.yaml")
    assert line is None or said == line


def test_each_error_is_a_line():
    assert lines("parts: {one: {size: 0}}\npairs: [[1], [x]]") == [
        "f.yaml: name is missing; give it",
        "f.yaml: parts.one.size=0: must be greater than or equal to 1",
        "f.yaml: pairs[1][0]='x': must be a valid integer, unable to parse string as an integer",
    ]
    (line,) = lines("name: a\npairs: [[1], [2], [3]]")
    assert line.startswith("f.yaml: pairs=[[1], [2], [3]]: must have at most 2 items")


def test_a_merged_name_may_be_changed():
    text = "name: a\nparts:\n  one: &one {size: 2}\n  two: {<<: *one, size: 4}\n"
    assert parse_yaml(text, "f.yaml", Whole).parts["two"].size == 4


def test_a_long_value_is_shortened():
    assert len(lines(f"name: a\nroom: {'much' * 1000}")[0]) < 200


def test_files_that_cannot_be_read(tmp_path: Path):
    latin, missing = tmp_path / "latin.yaml", tmp_path / "missing.yaml"
    latin.write_bytes("name: größer".encode("latin-1"))
    for path, problem in ((latin, r"not UTF-8 \(byte 9"), (missing, "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(ValueError, match=problem) as caught:
            read_yaml(path, Whole)
        assert str(caught.value).startswith(f"{path}: ")


def test_errors_of_a_part_are_spelled_from_the_whole():
    with pytest.raises(ValidationError) as caught:
        Part.model_validate({"size": 0})
    (line,) = error_lines(caught.value, "--size", Part, inside=("parts", "one"))
    assert line == "--size: parts.one.size=0: must be greater than or equal to 1"


def outcome(text: str) -> Whole | Exception:
    try:
        return parse_yaml(text, "f.yaml", Whole)
    except Exception as error:
        return error


@given(st.data())
def test_changed_bytes_are_read_or_refused_in_lines(data: st.DataObject):
    raw = bytearray(GOOD.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 127))
    found = outcome(raw.decode())
    if not isinstance(found, Whole):
        assert type(found) is ValueError, repr(found)
        assert all(line.startswith("f.yaml") for line in str(found).split("\n"))

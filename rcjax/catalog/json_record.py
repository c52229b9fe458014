"""Records of one JSON object a line."""

import json
from typing import Any

from rcjax.catalog.errors import RecordError, shown
from rcjax.catalog.record import Record
from rcjax.catalog.source import Line


class Repeated:
    """Stands for the value of a name that an object has more than once, with different values."""

    def __repr__(self) -> str:
        return "several values for one name"


def json_record(line: Line) -> Record:
    return Record(line.where, json_object(line, line.text()))


def json_object(line: Line, text: str) -> dict[str, Any]:
    """The object that the line has as its text. NaN and Infinity are left to the fields that have them."""
    try:
        values = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        problem = f"not JSON: {error.msg} at column {error.colno}"
        raise RecordError(f"{line.where}: {problem}{line.cut()}") from error
    except RecursionError as error:
        raise RecordError(f"{line.where}: JSON that is nested too deeply") from error
    except ValueError as error:
        raise RecordError(f"{line.where}: JSON with a number of more than 4,300 digits") from error
    if not isinstance(values, dict):
        problem = f"expected a JSON object, got {shown(values)}; one line is one record (JSON Lines)"
        raise RecordError(f"{line.where}: {problem}")
    return values


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        for name, value in pairs:
            if values[name] != value:
                values[name] = Repeated()
    return values


_DECODER = json.JSONDecoder(object_pairs_hook=_object)

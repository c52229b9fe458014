"""The values of Arrow's columns, and what is wrong with them in a line."""

from typing import Any

import numpy as np
import pyarrow as pa

from rcjax.catalog.errors import CatalogueError

_MAX_MESSAGE_LEN = 200


def column_values(place: str, name: str, column: pa.Array) -> list[Any]:
    """The column as Python values; `CatalogueError` names `place` and the column where it has none."""
    try:
        if pa.types.is_float32(column.type):
            # 12.99 of 32 bits is 12.99, not 12.989999771118164
            return [value if value is None else float(str(np.float32(value))) for value in column.to_pylist()]
        return column.to_pylist()
    except Exception as error:  # text that is not UTF-8, times that Python has no type for, ...
        kind = f"of type {column.type}"
        raise CatalogueError(f"{place}, column '{name}' {kind}: cannot be read: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """What of a library's message fits into a line of ours."""
    return (str(error).splitlines() or [type(error).__name__])[0][:_MAX_MESSAGE_LEN]

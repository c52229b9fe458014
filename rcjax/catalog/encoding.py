"""Which encoding a text file has, where a format does not say."""

from pathlib import Path

from rcjax.catalog.errors import CatalogueError
from rcjax.catalog.source import Line, read_lines


def text_encoding(path: Path) -> str:
    """`utf-8` or `latin-1`, decided by the whole file; `CatalogueError` where it is neither, or a mixture.

    Any bytes are Latin-1 in name; text in it has no control characters. A line that is UTF-8 beyond ASCII in a file
    that is not UTF-8 would become other characters silently, so it is an error too.
    """
    first_utf8: Line | None = None
    first_other: Line | None = None
    for line in read_lines(path, progress=False):
        if line.data.isascii():
            continue
        if _is_utf8(line.data):
            first_utf8 = first_utf8 or line
            continue
        if not line.has_break and first_other is None and _is_cut(line.data):
            raise CatalogueError(f"{line.where}: the file ends within a character: it is cut off; copy it anew")
        first_other = first_other or line
        _check_latin_1(line)
    if first_other is None:
        return "utf-8"
    if first_utf8 is not None:
        problem = f"is not UTF-8, but {first_utf8.where} is; one file has one encoding: convert it to UTF-8"
        raise CatalogueError(f"{first_other.where}: {problem}")
    return "latin-1"


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _is_cut(data: bytes) -> bool:
    """Whether only the last character is not whole."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.end == len(data) and error.reason == "unexpected end of data"
    return False


def _check_latin_1(line: Line) -> None:
    for n, byte in enumerate(line.data, start=1):
        if 0x7F <= byte < 0xA0 or (byte < 0x20 and byte != 0x09):
            problem = f"byte {n} is {byte:#04x}: neither UTF-8 nor Latin-1 text; convert the file to UTF-8"
            raise CatalogueError(f"{line.where}: {problem}")

"""What is wrong with a data file, in one line."""

import reprlib

_MAX_SHOWN = 60


class CatalogueError(ValueError):
    """Data that cannot be read; the message names the file, its line or row, the field, the value and what to do.

    It is one line that can be printed, whatever stands in a file's name or in the message of a library.
    """

    def __init__(self, message: str):
        printable = message.encode("utf-8", "backslashreplace").decode("utf-8")
        super().__init__(" ".join(printable.splitlines()))


class RecordError(CatalogueError):
    """One record that cannot be read; those after it can."""


def _shortening() -> reprlib.Repr:
    shortening = reprlib.Repr()
    shortening.maxlevel = 2
    shortening.maxstring = shortening.maxother = shortening.maxlong = _MAX_SHOWN
    return shortening


_SHORTENING = _shortening()


def shown(value: object) -> str:
    """The value as messages show it: short, in one line, and without looking deeply into it."""
    try:
        return _SHORTENING.repr(value)
    except ValueError:  # Python does not write out integers of more than 4,300 digits
        return "a number of more than 4,300 digits"

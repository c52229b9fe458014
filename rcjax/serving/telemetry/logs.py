"""Logs: a line for people, or an object for machines, each with the id of the request that it is about."""

import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import IO, Literal, cast

from rich.console import Console
from rich.text import Text

from rcjax.engine.request_id import current_request_id

_STYLES = {logging.INFO: "dim", logging.WARNING: "yellow", logging.ERROR: "red", logging.CRITICAL: "bold red"}


@contextmanager
def logging_as(form: Literal["rich", "json"], stream: IO[str]) -> Iterator[None]:
    """Writes what is logged inside to `stream`: all of rcjax from INFO on, of other packages from WARNING on.

    What the root logger did before, it does again afterwards.
    """
    handler = JsonHandler(stream) if form == "json" else RichHandler(Console(file=stream))
    handler.addFilter(_with_request_id)
    root, own = logging.getLogger(), logging.getLogger("rcjax")
    level = own.level
    root.addHandler(handler)
    own.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        own.setLevel(level)


def _with_request_id(record: logging.LogRecord) -> bool:
    """Says which request a record is about, unless whoever logs has said so. Handlers filter in the logging thread."""
    if not getattr(record, "request_id", ""):
        record.request_id = current_request_id()
    return True


class RichHandler(logging.StreamHandler[IO[str]]):
    """A line for each record, in colours where that is a terminal; never wrapped."""

    def __init__(self, console: Console):
        super().__init__(console.file)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        try:
            at = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S.%f")[:-3]
            request_id = getattr(record, "request_id", "")
            line = Text.assemble(
                (f"{at} ", "dim"),
                (f"{record.levelname:<8}", _STYLES.get(record.levelno, "")),
                self.format(record),
                (f"  [{request_id}]" if request_id else "", "dim"),
            )
            self._console.print(line, soft_wrap=True)
        except Exception:
            self.handleError(record)


class JsonHandler(logging.StreamHandler[IO[str]]):
    """An object a line: `time` (RFC 3339, UTC), `level`, `logger`, `message`, and where there are any `request_id`,
    `rpc` and `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name in ("request_id", "rpc"):
            if value := getattr(record, name, None):
                fields[name] = value
        if record.exc_info:
            fields["exception"] = logging.Formatter().formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)


class LoggedLines(io.TextIOBase):
    """A stream whose lines are logged at INFO: what is printed for people, where machines read."""

    def __init__(self, logger: logging.Logger):
        self._logger = logger
        self._rest = ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in filter(None, map(str.rstrip, lines)):
            self._logger.info(line)
        return len(text)


def console_for(form: Literal["rich", "json"]) -> Console:
    """Where a command prints for people: standard output, or where machines read the log."""
    if form == "rich":
        return Console()
    return Console(file=cast(IO[str], LoggedLines(logging.getLogger("rcjax.console"))), width=1000)

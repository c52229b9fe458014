"""Answers of a host: a value, or the error that its caller is told; Ray's own errors mean that the host is gone."""

import logging
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any

from rcjax.engine.state import public
from rcjax.errors import RcjaxError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a call."""

    value: Any = None
    error: RcjaxError | None = None

    def result(self) -> Any:
        """The value; raises the error."""
        if self.error is not None:
            raise self.error
        return self.value


async def answered(work: Awaitable[Any]) -> Answer:
    """What came of `work`. A cancelled call is cancelled; what no caller may know is logged here."""
    try:
        return Answer(await work)
    except Exception as error:
        return Answer(error=public(error))

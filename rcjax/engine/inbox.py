"""The inbox of a worker: what other threads hand to it."""

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

Message = Callable[[], Any]


class Inbox:
    """Messages in order of arrival; a message is something for the worker's thread to call."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._messages: deque[Message] = deque()
        self._is_closed = False

    def put(self, message: Message, *, even_if_closed: bool = False) -> bool:
        """Whether it was taken."""
        with self._changed:
            if self._is_closed and not even_if_closed:
                return False
            self._messages.append(message)
            self._changed.notify()
            return True

    def take(self, timeout_s: float | None, *, until_closed: bool = True) -> list[Message]:
        """All messages there are; waits for one, at most `timeout_s` (None: for ever), or until it is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._messages or (until_closed and self._is_closed), timeout_s)
            messages = list(self._messages)
            self._messages.clear()
            return messages

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    def close(self) -> None:
        """Takes no more messages; those that are there stay."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()

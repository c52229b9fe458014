"""Waiting for threads to end."""

import threading
import time
from collections.abc import Iterable

JOIN_S = 1.0  # for threads that were told to end: they have at most a step left


def join_all(threads: Iterable[threading.Thread], timeout_s: float = JOIN_S) -> bool:
    """Waits for all to end, together at most `timeout_s`; whether they have. One that was never started has."""
    end_s = time.monotonic() + timeout_s
    threads = [thread for thread in threads if thread.is_alive()]
    for thread in threads:
        thread.join(max(0.0, end_s - time.monotonic()))
    return not any(thread.is_alive() for thread in threads)

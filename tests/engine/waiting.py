"""Waiting for what other threads are about to do."""

import time
from collections.abc import Callable

WATCHDOG_S = 60.0  # a test that waits so long has failed


def wait_until(is_so: Callable[[], bool]) -> None:
    give_up_s = time.monotonic() + WATCHDOG_S
    while not is_so():
        assert time.monotonic() < give_up_s
        time.sleep(0.01)

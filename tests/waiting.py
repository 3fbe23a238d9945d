"""Waiting for something to become true, with a deadline instead of a sleep of a guessed length."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(
    condition: Callable[[], T],
    timeout: float = 60.0,
    message: str = "the condition did not come true",
) -> T:
    """Poll ``condition`` until it returns something truthy, and return that.

    Fails the test after ``timeout`` seconds with ``message`` and the last value seen. An exception
    of the condition is the test's own and passes through.
    """
    deadline = time.monotonic() + timeout
    pause = 0.005
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(f"{message} (within {timeout:g} s; last value: {value!r})")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.1)

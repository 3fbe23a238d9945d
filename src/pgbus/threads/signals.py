"""The signals by which an operator ends a process."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from types import FrameType

from pgbus.errors import ConfigurationError

ECHO = 0.02
"""Seconds in which one wish may come twice: GNU ``timeout``, for one, signals its child and then
its group, the child among it."""
GLANCE = 0.5
"""Seconds after which who waits for a signal looks whether one came."""


class Latch:
    """What a signal handler sets and the main thread waits for.

    A handler runs between any two steps of the main thread. So it must not set a
    :class:`threading.Event`: that thread may hold its lock, and would wait for itself. The put of a
    ``SimpleQueue`` may come amid its get. A signal that comes just before the thread falls asleep
    does not wake it, and Python calls no handler before it wakes: it sleeps for a glance at most.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._woken: SimpleQueue[None] = SimpleQueue()

    def set(self) -> None:
        """Let whoever waits go on, now and from now on."""
        self._is_set = True
        self._woken.put(None)

    def is_set(self) -> bool:
        """Return whether it was set."""
        return self._is_set

    def wait(self, timeout: float | None = None) -> bool:
        """Return once it is set, or after so many seconds; and whether it is set."""
        end = None if timeout is None else time.monotonic() + timeout
        while not self._is_set:
            nap = GLANCE if end is None else min(GLANCE, end - time.monotonic())
            if nap <= 0:
                break
            with suppress(Empty):
                self._woken.get(timeout=nap)
        return self._is_set


@contextmanager
def ended_by_signals(latch: Latch) -> Iterator[None]:
    """Let SIGINT, SIGTERM and SIGHUP set a latch while the block runs, and break nothing off.

    What ``KeyboardInterrupt`` breaks off may have taken the lock of a :class:`threading.Event`, or
    of a pool, that nobody lets go of any more. Only the main thread gets signals: in others this
    does nothing.
    """
    numbers = []
    if threading.current_thread() is threading.main_thread():
        numbers += [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as it is under nohup
            numbers.append(signal.SIGHUP)
    with _handled(numbers, lambda *_: latch.set()):
        yield


@contextmanager
def _handled(
    numbers: Sequence[signal.Signals], handler: Callable[[int, FrameType | None], None]
) -> Iterator[None]:
    before = {one: signal.signal(one, handler) for one in numbers}
    try:
        yield
    finally:
        for one, former in before.items():
            signal.signal(one, former)


class StopRequest:
    """What an operator wants: *nothing* yet, to *stop*, and by another signal to end *at once*."""

    def __init__(self) -> None:
        self._asked = Latch()
        self._asked_at = 0.0
        self._heard = False

    def wait(self) -> None:
        """Return once a signal asked for a stop. From then on another one ends the process."""
        self._asked.wait()
        time.sleep(ECHO)
        self._heard = True

    def ask(self, number: int, _: FrameType | None) -> None:
        """Handle a signal."""
        now = time.monotonic()
        if not self._asked.is_set():
            self._asked_at = now
            self._asked.set()
        elif self._heard or now - self._asked_at > ECHO:
            os._exit(128 + number)


@contextmanager
def asked_to_stop() -> Iterator[StopRequest]:
    """Yield what SIGTERM and SIGINT ask for; a second signal ends the process at once.

    Raises:
        ConfigurationError: this is not the main thread, which alone gets signals.
    """
    if threading.current_thread() is not threading.main_thread():
        raise ConfigurationError("run() handles signals, so call it in the main thread")
    request = StopRequest()
    with _handled([signal.SIGTERM, signal.SIGINT], request.ask):
        yield request

"""Counting what consuming processes handle, in memory that they share with the measuring one."""

import multiprocessing
import threading
import time
from multiprocessing.context import SpawnContext
from typing import NamedTuple

from benchmarks.orders import position
from pgbus.model.event import Event, key_of

SPAWN: SpawnContext = multiprocessing.get_context("spawn")
"""Fresh processes, as consumers in production are: nothing of the measuring one is in them."""
THREADS = 8
"""What ``subscribe`` has by default."""


class Job(NamedTuple):
    """How a consuming process is to handle."""

    kind: str
    """A name in :data:`benchmarks.orders.KINDS`."""
    mode: str = "each"
    """``each`` event by itself, each in a ``transaction``, or as a ``batch``."""
    batch: int = 100
    """How many a peer asks for at once, and how many a batch handler takes."""
    pause: float = 0.0
    """Seconds that the handler sleeps."""
    threads: int = THREADS
    """How many of pgbus's call the handler."""
    checked: bool = False
    """Count the events that come before an earlier one of their key."""


class Tally:
    """One consuming process's count; made by the measuring process.

    The consumer alone writes ``counts`` and ``delays``; the other side reads them.
    """

    def __init__(self, delays: int = 0) -> None:
        self.counts = SPAWN.RawArray("q", 2)
        self.delays = SPAWN.RawArray("d", delays)
        self.ready = SPAWN.Event()
        self.go = SPAWN.Event()
        self.stop = SPAWN.Event()

    @property
    def handled(self) -> int:
        """How many events were handled."""
        return int(self.counts[0])

    @property
    def misordered(self) -> int:
        """How many events came before an earlier one of their key."""
        return int(self.counts[1])


class Counter:
    """The consumer's side of a tally: what every handler calls, whatever delivers to it."""

    def __init__(self, tally: Tally, job: Job) -> None:
        self._tally = tally
        self._counts = tally.counts
        self._delays = tally.delays
        self._timed = len(tally.delays) > 0
        self._pause = job.pause
        self._checked = job.checked
        self._last: dict[str, int] = {}
        self._lock = threading.Lock()

    def handle(self, event: Event) -> None:
        """Handle an event."""
        if self._timed:
            self._note_delay(event)
        if self._checked:
            self._check(event)
        if self._pause:
            time.sleep(self._pause)
        with self._lock:
            self._counts[0] += 1

    def _note_delay(self, event: Event) -> None:
        number: int = getattr(event, "number")  # noqa: B009 - every kind has one
        sent: float = getattr(event, "sent")  # noqa: B009
        self._delays[position(number)] = time.monotonic() - sent

    def _check(self, event: Event) -> None:
        key, number = key_of(event), int(getattr(event, "number"))  # noqa: B009
        if key is None:
            return
        if number <= self._last.get(key, -1):
            with self._lock:
                self._counts[1] += 1
        self._last[key] = number

    def begin(self) -> None:
        """Say that the consumer is connected, and wait until all are to begin."""
        self._tally.ready.set()
        self._tally.go.wait()

    def stopped(self) -> bool:
        """Whether the consumer is to end."""
        return self._tally.stop.is_set()

    def wait_for_stop(self) -> None:
        """Wait until the consumer is to end."""
        self._tally.stop.wait()

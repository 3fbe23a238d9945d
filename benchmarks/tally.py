"""Counting what consuming processes handle, in memory that they share with the measuring one."""

import multiprocessing
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, MutableMapping, MutableSequence
from multiprocessing.context import SpawnContext
from typing import Any, Literal, NamedTuple

from benchmarks.orders import position
from pgbus.model.config import OnExhausted
from pgbus.model.event import Event, key_of

SPAWN: SpawnContext = multiprocessing.get_context("spawn")
THREADS = 8
"""What ``subscribe`` has by default."""


class Job(NamedTuple):
    """How a consuming process is to handle."""

    kind: str
    """A name in :data:`benchmarks.orders.KINDS`."""
    mode: Literal["each", "transaction", "batch", "insert", "insert batch"] = "each"
    """``each`` event by itself, each in a ``transaction``, or as a ``batch``; to ``insert`` is to
    write a row for each event as well, in a transaction of one event, or of a batch."""
    batch: int = 100
    """How many a peer asks for at once, and how many a batch handler takes."""
    pause: float = 0.0
    """Seconds that the handler sleeps."""
    threads: int = THREADS
    """How many of pgbus's call the handler."""
    on_exhausted: OnExhausted = "skip"
    """Whether pgbus parks a key behind a dead letter."""


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
    def misplaced(self) -> int:
        """How many events came twice, or after a later one of their key."""
        return int(self.counts[1])


class Ledger:
    """The last number that was handled of each key, by whichever process; each writes and reads it.

    An event without a key is the only one of its own, so that its second coming is seen, too.

    Parameters:
        events: one at least of every key that will come.
    """

    _last: MutableMapping[str | int, int] | MutableSequence[int]

    def __init__(self, events: Iterable[Event]) -> None:
        names = dict.fromkeys(_line(event) for event in events)
        self._places = {name: place for place, name in enumerate(names)}
        self._last = SPAWN.RawArray("q", [-1] * len(names))
        self._lock = SPAWN.Lock()

    def enter(self, event: Event) -> bool:
        """Note an event; return whether it comes after all of its key that came before."""
        place, number = self._place(event), _number(event)
        with self._lock:
            last = int(self._last[place])
            self._last[place] = max(number, last)
        return number > last

    def _place(self, event: Event) -> Any:
        return self._places[_line(event)]


class Notebook(Ledger):
    """The same for one process alone, which need not know a million keys beforehand.

    Parameters:
        barred: keys of which no event may come.
    """

    def __init__(self, barred: Iterable[str] = ()) -> None:
        self._last = defaultdict(_nothing, dict.fromkeys(barred, sys.maxsize))
        self._lock = SPAWN.Lock()

    def _place(self, event: Event) -> Any:
        return _line(event)


class Marks(Ledger):
    """Only what came twice of so many orders that were made in turn, whatever their keys."""

    def __init__(self, count: int) -> None:
        self._last = SPAWN.RawArray("q", [-1] * count)
        self._lock = SPAWN.Lock()

    def _place(self, event: Event) -> Any:
        return position(_number(event))


def _nothing() -> int:
    return -1


def _line(event: Event) -> str | int:
    """Return what an event stands in line with others by."""
    key = key_of(event)
    return _number(event) if key is None else key


def _number(event: Event) -> int:
    return int(getattr(event, "number"))  # noqa: B009 - every kind has one


class Counter:
    """The consumer's side of a tally: what every handler calls, whatever delivers to it."""

    def __init__(self, tally: Tally, job: Job, ledger: Ledger | None = None) -> None:
        self._tally = tally
        self._counts = tally.counts
        self._delays = tally.delays
        self._timed = len(tally.delays) > 0
        self._pause = job.pause
        self._ledger = ledger
        self._lock = threading.Lock()

    def handle(self, event: Event) -> None:
        """Handle an event."""
        if self._timed:
            self._note_delay(event)
        if self._ledger is not None and not self._ledger.enter(event):
            with self._lock:
                self._counts[1] += 1
        if self._pause:
            time.sleep(self._pause)
        with self._lock:
            self._counts[0] += 1

    def _note_delay(self, event: Event) -> None:
        sent: float = getattr(event, "sent")  # noqa: B009 - orders alone are timed
        self._delays[position(_number(event))] = time.monotonic() - sent

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

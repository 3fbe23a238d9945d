"""Group commit: what many threads publish at the same time is committed together.

A publish that finds a seat free is stored at once. Those that find none wait for the next to become
free, and the first of them stores them all: batches grow with the load, nothing waits for a clock.

There are several seats, because with a single one each publish would wait for the end of another
before its own begins: two threads would publish no more than one, on a disk that takes 2 ms, and
half as much where handing over from thread to thread takes longer than the commit. While Python has
time to spare there are more of them, because PostgreSQL flushes what all of them commit at once.
Where it is Python that everything waits for, more would only make it change threads more often: a
few threads have a seat each, and many share two.
"""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

from pgbus.errors import PgbusError, StoreError

T = TypeVar("T")
R = TypeVar("R")


class Seats(NamedTuple):
    """How many commits may be under way at once."""

    spare: int = 8
    """While Python has time to spare."""
    own: int = 4
    """While it is busy, and no more threads than that publish at the same time."""
    shared: int = 2
    """While it is busy, and more of them do. Where five to 32 did, on two cores, a publish by four
    seats took a fifth longer; where three or four did, one by two."""


SEATS = Seats()
BUSY, AT_EASE = 0.8, 0.5
"""The processor's seconds a second above which Python is busy, and below which it is so no more:
with fewer seats it has less to do."""
WINDOW = 0.05
"""Seconds over which that is looked at."""
MOST_ITEMS = 500
"""Items in one commit; a call with more of them is not combined with others."""
NOBODYS = ("08", "25", "53", "55", "57")
"""Classes of the errors that say how the server is, whatever it is asked to store."""


class _Seat:
    """Whether one caller has a commit under way, and for how many others."""

    # Every publish makes one: the class's own are had for nothing.
    taken = False
    riders = 0


class _Entry(Generic[T, R]):
    """One caller's items; its thread waits at the gate, to return or to store a whole batch.

    The gate is a bare lock, which whoever is done with the entry releases: an ``Event`` would cost
    each waiting publish as much as its encoding.
    """

    __slots__ = ("batch", "error", "gate", "items", "results", "seat")

    def __init__(self, items: Sequence[T], seat: _Seat) -> None:
        self.items = items
        self.seat = seat
        self.gate = threading.Lock()
        self.batch: list[_Entry[T, R]] = []
        self.results: Sequence[R] = ()
        self.error: BaseException | None = None


class Combiner(Generic[T, R]):
    """See the module.

    Parameters:
        store: stores any number of items, all or none, and returns a result for each.
        seats: how many of its calls may be under way at once.
        clock: returns the seconds that have passed.
        work: returns those that Python was busy.
    """

    def __init__(
        self,
        store: Callable[[Sequence[T]], Sequence[R]],
        *,
        seats: Seats = SEATS,
        clock: Callable[[], float] = time.monotonic,
        work: Callable[[], float] = time.process_time,
    ) -> None:
        self._store = store
        self._rules = seats
        self._seats = seats.spare
        self._clock = clock
        self._work = work
        self._looked = clock()
        self._worked = work()
        self._lock = threading.Lock()
        self._is_busy = False
        self._busy = 0
        self._waiting: list[_Entry[T, R]] = []
        self._riding = 0  # those whom others store
        self._crowd = 0  # the most who were at it at the same time, when somebody had to wait

    def run(self, items: Sequence[T]) -> Sequence[R]:
        """Store items, in one commit with those of other threads where many come at once.

        Raises:
            PgbusError: as ``store`` raises it for these items.
        """
        if len(items) > MOST_ITEMS:
            return self._store(items)
        seat = _Seat()
        try:
            with self._lock:
                if self._busy < self._seats:
                    self._busy += 1
                    seat.taken = True
            return self._store(items) if seat.taken else self._run_later(items, seat)
        finally:
            if seat.taken:
                try:
                    self._hand_over(seat)
                except BaseException:  # interrupted; whether before or after it was done
                    self._hand_over(seat)
                    raise

    def _run_later(self, items: Sequence[T], seat: _Seat) -> Sequence[R]:
        """Wait for a seat, or for another who stores these items, too."""
        entry: _Entry[T, R] = _Entry(items, seat)
        try:
            self._await_turn(entry)
            if entry.batch:
                self._store_all(entry)
        except BaseException:
            self._withdraw(entry)
            raise
        if entry.error is not None:
            raise entry.error
        return entry.results

    def _await_turn(self, entry: _Entry[T, R]) -> None:
        """Wait until an entry is stored, or is to store its batch."""
        with self._lock:
            if self._busy < self._seats:
                self._busy += 1
                entry.seat.taken = True
                entry.batch = [entry]
                return
            entry.gate.acquire()
            self._waiting.append(entry)
            self._crowd = max(self._crowd, self._busy + self._riding + len(self._waiting))
        entry.gate.acquire()

    def _withdraw(self, entry: _Entry[T, R]) -> None:
        """Take back what was interrupted as it waited: whoever is let in next must be there."""
        with self._lock:
            if entry in self._waiting:
                self._waiting.remove(entry)
            self._waiting[:0] = entry.batch[1:]
            self._riding -= entry.seat.riders
            entry.seat.riders = 0

    def _hand_over(self, seat: _Seat) -> None:
        """Make the first that waits store what waits, or leave the seat free; once.

        Python lets signals interrupt as a function of its own begins or as another has returned. So
        nothing is called between what belongs together, and what was interrupted can be repeated.
        """
        with self._lock:
            if not seat.taken:
                return
            now = self._clock()
            if now - self._looked > WINDOW:
                self._count_seats(now)
            if not self._waiting or self._busy > self._seats:
                self._busy -= 1
                seat.taken = False
                return
            batch = self._next_batch()
            first, riders = batch[0], len(batch) - 1
            del self._waiting[: riders + 1]
            self._riding += riders
            first.seat.riders = riders
            first.batch = batch
            first.seat.taken, seat.taken = True, False
            first.gate.release()

    def _next_batch(self) -> "list[_Entry[T, R]]":
        """Return what is to be stored together next."""
        batch = []
        size = 0
        for entry in self._waiting:
            size += len(entry.items)
            if size > MOST_ITEMS:
                break
            batch.append(entry)
        return batch

    def _count_seats(self, now: float) -> None:
        worked = self._work()
        limit = AT_EASE if self._is_busy else BUSY
        self._is_busy = worked - self._worked > limit * (now - self._looked)
        if not self._is_busy:
            self._seats = self._rules.spare
        elif self._crowd <= self._rules.own:
            self._seats = self._rules.own
        else:
            self._seats = self._rules.shared
        self._looked, self._worked, self._crowd = now, worked, 0

    def _store_all(self, leader: _Entry[T, R]) -> None:
        """Store a batch and let its other callers go."""
        batch, leader.batch = leader.batch, []  # it is not to be withdrawn any more
        try:
            self._try(batch)
        except BaseException:
            for entry in batch[1:]:
                entry.error = entry.error or _interrupted()
            raise
        finally:
            try:
                self._let_go(batch)
            except BaseException:  # interrupted; how far it came does not matter
                self._let_go(batch)
                raise

    def _let_go(self, batch: "Sequence[_Entry[T, R]]") -> None:
        """Let those go whom their leader stored; can be repeated."""
        seat = batch[0].seat
        with self._lock:  # before they come back with the next
            self._riding -= seat.riders
            seat.riders = 0
        for entry in batch[1:]:
            if entry.gate.locked():  # by itself, once it has gone: no harm to release it then
                entry.gate.release()

    def _try(self, batch: Sequence[_Entry[T, R]]) -> None:
        try:
            results = self._store([item for entry in batch for item in entry.items])
        except PgbusError as error:
            if len(batch) == 1:
                batch[0].error = error
            elif isinstance(error, StoreError) and _is_of_all(error):
                for entry in batch:
                    entry.error = _again(error)
            else:  # one of them is at fault
                for entry in batch:
                    self._try([entry])
            return
        first = 0
        for entry in batch:
            entry.results = results[first : first + len(entry.items)]
            first += len(entry.items)


def _is_of_all(error: StoreError) -> bool:
    """Return whether an error has nothing to do with what was to be stored.

    Each of many would wait for the database, one after the other, only to be told the same.
    """
    sqlstate = getattr(error.__cause__, "sqlstate", None)
    return error.outcome_unknown or sqlstate is None or sqlstate[:2] in NOBODYS


def _again(error: StoreError) -> StoreError:
    """Return an error for one of several callers: an instance cannot be raised in two threads."""
    again = StoreError(str(error), outcome_unknown=error.outcome_unknown)
    again.__cause__ = error.__cause__
    return again


def _interrupted() -> StoreError:
    """Return an error for one of those whose leader was interrupted."""
    text = "the publish was interrupted; whether it was committed is unknown"
    return StoreError(text, outcome_unknown=True)

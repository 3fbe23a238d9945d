"""Events at a steady rate."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import overload

from benchmarks.orders import order
from pgbus import Event

KEYS = 1_000
PATIENCE = 1.5
"""A publisher that cannot keep pace ends after so many times the time it was given."""
ENOUGH = 0.95
"""Of the rate that was intended: who stays below has measured something else."""


def steadily(
    rate: float, size: int, publish: Callable[[int], object], more: Callable[[int], bool]
) -> float:
    """Publish batches when they are due; return the events a second that this came to.

    Parameters:
        rate: events a second.
        size: of a batch.
        publish: publishes the batch that begins with the event of this number.
        more: whether to go on after so many events.
    """
    start = time.monotonic()
    count = 0
    while more(count):
        publish(count)
        count += size
        # To the end of the last batch's time, too: it would make the rate too high otherwise.
        time.sleep(max(0.0, start + count / rate - time.monotonic()))
    return count / max(time.monotonic() - start, 1e-9)


def too_slow(reached: float, wanted: float) -> str:
    """Return the rate that was reached; nothing where it was the one that is wanted."""
    return "" if reached >= ENOUGH * wanted else f"{reached:,.0f} events/s"


class Paced(Sequence[Event]):
    """Orders that are made when they are due, stamped with the moment they are published at.

    A slice of it keeps each order's number and time, so that several callers share one schedule.
    The schedule begins with the first order that is asked for.

    Parameters:
        rate: events a second, of all callers together.
        whole: what this is a slice of.
    """

    def __init__(self, rate: float, numbers: range, whole: "Paced | None" = None) -> None:
        self._rate = rate
        self._numbers = numbers
        self._clock: list[float] = [] if whole is None else whole._clock
        self.given: list[int] = [] if whole is None else whole.given
        """The numbers that were asked for so far; each caller appends its own."""

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, place: int) -> Event: ...
    @overload
    def __getitem__(self, place: slice) -> "Paced": ...
    def __getitem__(self, place: int | slice) -> "Event | Paced":
        if isinstance(place, slice):
            return Paced(self._rate, self._numbers[place], self)
        number = self._numbers[place]
        return order(number, number % KEYS, sent=time.monotonic())

    def __iter__(self) -> Iterator[Event]:
        if not self._clock:
            self._clock.append(time.monotonic())
        start = self._clock[0]
        last = start + PATIENCE * (self._numbers.stop / self._rate) + 1.0
        for number in self._numbers:
            wait = start + number / self._rate - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            now = time.monotonic()
            if now > last:
                return
            self.given.append(number)
            yield order(number, number % KEYS, sent=now)

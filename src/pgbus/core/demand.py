"""How much a subscription should take at once, given how fast its handler is.

Slow handlers take just what their threads can begin, so that other processes get their share; fast
ones take enough for a fraction of a second, so that a round trip is paid by many events.
"""

import math
from dataclasses import dataclass

HORIZON = 0.25
"""Seconds of work to hold in advance."""
SLOW = 0.05
"""Seconds an event from which on nothing is held in advance."""
MOST_EVENTS = 4_000
MOST_BYTES = 8 * 2**20
"""Bytes of bodies in one take, and, going by their average size, in hand altogether."""
SMOOTHING = 0.1
MOST_QUANTITY = 64
"""Events of one lane in a take."""
DEEP_QUANTITY = 256
"""The same where only a few lanes were free, for half of the threads at most: what a lease costs is
shared by all of its events. Not more: after a worker's death they all come back one at a time."""

FAST = 5_000
"""Events a second from which on it pays to look again unasked."""
MEMORY = 0.1
"""Seconds over which that rate is smoothed."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What to ask the next take for; ``lanes * quantity`` is the most it can bring."""

    lanes: int
    quantity: int


class Flow:
    """How fast events come: a count that fades."""

    def __init__(self) -> None:
        self._count = 0.0
        self._at = 0.0

    def add(self, events: int, now: float) -> None:
        """Count events that came ``now``, in seconds of a monotonic clock."""
        self._count = self._faded(now) + events
        self._at = now

    def is_fast(self, now: float) -> bool:
        """Return whether more than :data:`FAST` come in a second."""
        return self._faded(now) > FAST * MEMORY

    def _faded(self, now: float) -> float:
        return self._count * math.exp((self._at - now) / MEMORY)


class Demand:
    """One subscription's appetite.

    The fetcher asks, and workers tell what they find; a number that comes too late does no harm.

    Parameters:
        concurrency: the number of handler threads.
        ordered: whether a lane can hold more than one event.
        batch: how many events one call takes at most; ``None`` where each comes by itself.
    """

    def __init__(self, concurrency: int, *, ordered: bool, batch: int | None = None) -> None:
        self._threads = concurrency
        self._batch = batch or 1
        self._least = concurrency * self._batch
        self._ordered = ordered
        # A batch is whole lanes: none of them may have more than one call takes.
        self._most_quantity = batch or MOST_QUANTITY
        self._deep_quantity = batch or DEEP_QUANTITY
        self._depth = 8.0
        self._scarce = False
        self._size = 0.0
        self._seconds = SLOW / 2

    @property
    def seconds(self) -> float:
        """The smoothed time of one event: a call's, divided by its events."""
        return self._seconds

    @property
    def target(self) -> int:
        """How many events to hold: at least a call's for every thread.

        Batches under way are in hand until their calls end, and whole ones are held beside them: a
        thread that is free takes what is there, and waits for no more.
        """
        if self._seconds >= SLOW:
            return self._least
        ahead = int(self._threads * HORIZON / max(self._seconds, 1e-6))
        if self._batch > 1:
            ahead = self._least + math.ceil(ahead / self._batch) * self._batch
        light = int(MOST_BYTES / max(self._size, 1.0))
        return max(self._least, min(MOST_EVENTS, ahead, light))

    def take_singly(self) -> None:
        """Take one event of a lane from now on: those behind it would go back unhandled."""
        self._most_quantity = self._deep_quantity = 1

    def observe(self, seconds: float) -> None:
        """Learn how long a call took, divided by its events."""
        self._seconds += SMOOTHING * (seconds - self._seconds)

    def learn(self, lanes: int, events: int, size: int, *, all_seen: bool = False) -> None:
        """Learn what a take found.

        Parameters:
            lanes: how many were leased.
            events: of all of them together.
            size: the bytes of all their bodies.
            all_seen: whether no other lane was free.
        """
        few = lanes <= max(1, self._threads // 2)
        if lanes:
            self._scarce = few and (all_seen or self._scarce)
            self._depth += 0.5 * (events / lanes - self._depth)
        if events:
            self._size += 0.5 * (size / events - self._size)

    @property
    def low(self) -> int:
        """How many events in hand are too few.

        A quarter of the target is used up then: a take for one event costs as much as one for
        fifty, but fast handlers must not wait for one.
        """
        return self._low(self.target)

    def _low(self, target: int) -> int:
        beside = self._batch if self._batch > 1 else 0
        return max(target * 3 // 4, min(target, self._least + beside) - 1)

    def wish(self, in_hand: int) -> Wish | None:
        """Return what to take, or ``None`` while enough is in hand."""
        target = self.target
        if in_hand > self._low(target):
            return None
        room = target - in_hand
        quantity = 1
        if self._ordered:
            quantity = max(1, min(self._most(target), int(self._depth * 1.5) + 1, room))
        few = room <= 2 * self._threads or self._seconds >= SLOW
        if few and not (self._scarce and self._batch > 1):
            # Few can be begun at once: rather many keys than one key's future.
            quantity = max(1, min(quantity, room // self._least))
        return Wish(max(1, room // quantity), quantity)

    def _most(self, target: int) -> int:
        if not self._scarce:
            return self._most_quantity
        # Still two lanes for each thread.
        return max(self._most_quantity, min(self._deep_quantity, target // (2 * self._threads)))

"""A subscription at run time: what is in hand, what is wanted, who waits."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec

from pgbus.core.demand import Demand, Flow, Wish
from pgbus.core.rounds import Rounds
from pgbus.core.walk import Walk
from pgbus.model.delivery import Chunk
from pgbus.threads.definition import Definition
from pgbus.threads.session import Session

SHORT = 0.001
"""Seconds a call below which a worker takes several chunks at once."""
TINY = 0.0001
"""Seconds of work that a worker takes at once in any case."""
MOST_CHUNKS = 64
NAP = 0.005
"""Seconds between two looks while events come fast, or while it is woken in vain."""
VAIN = 3
"""After so many looks in a row that found nothing, the fetcher naps before the next: anybody may
send notifications, and as many as they like; and of many lanes in hand each is let go by itself,
while a look has to pass by all the others."""


class Hold(msgspec.Struct, eq=False):
    """A chunk in hand, and the session that leased it."""

    chunk: Chunk
    session: Session
    abandoned: bool = False
    """Set by the watchdog: the call took too long, and the lease was given up."""
    fenced: bool = False
    """Set by the settler: the database refused, because another holds the lane."""
    refused: bool = False
    """Set by the settler: the database cannot settle one of its events; all of them come again."""
    released: bool = False
    """Set once the lane was let go: nothing of it is in hand any more."""
    unsettled: int = 0
    """Events not yet settled. The settler counts down."""

    def __post_init__(self) -> None:
        self.unsettled = len(self.chunk.messages)

    @property
    def given_up(self) -> bool:
        """Whether somebody has marked this chunk as one of which nothing counts any more."""
        return self.abandoned or self.fenced or self.refused

    @property
    def lost(self) -> bool:
        """Whether nothing that is done under it can count any more."""
        return self.given_up or self.session.lost


class Parcel(NamedTuple):
    """What a take brought, unread: whoever needs it first makes chunks of it.

    So the fetcher asks for the next at once, and the server is not kept waiting for Python.
    """

    events: int
    """How many there are at most."""
    suspect: bool
    unpack: Callable[[], list[Hold]]


class Subscription:
    """The meeting point of the fetcher, the workers and the settler of one subscription.

    The fetcher alone uses ``walk`` and ``rounds`` (but that anyone may press) and writes
    ``round_at``, ``rung``, ``asleep``, ``streak``, ``vain``, ``poll_after`` and ``patience``.
    Anyone sets ``ready`` and ``nap``, which the fetcher clears before it looks. Once ``closed`` it
    takes no more work.
    """

    def __init__(self, number: int, definition: Definition) -> None:
        self.number = number
        self.definition = definition
        self.name = definition.name
        self.demand = Demand(
            definition.concurrency,
            ordered=definition.ordered,
            batch=definition.batch if definition.handler.is_batch else None,
        )
        self.ready = True
        self.walk = Walk()
        self.rounds = Rounds()
        self.asleep = False
        self.streak = 0
        self.flow = Flow()
        self.nap: float | None = None
        self.round_at: float | None = None
        self.rung = False
        self.vain = 0
        self.poll_after = 0.0
        self.patience = 1.0
        # A signal's handler may call ``stop`` while the thread that it interrupts is in here.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        # Who pauses waits for something else, and must not be woken in a worker's place.
        self._ended = threading.Condition(self._lock)
        self._inbox: deque[Hold] = deque()
        self._parcels: deque[Parcel] = deque()
        self._in_hand = 0
        self._low = 0
        self._suspects = 0
        self.closed = False

    def look(self) -> None:
        """Have the fetcher look: at once or, after some looks in vain, after a nap."""
        self.rounds.press()
        if self.vain < VAIN:
            self.ready = True
        elif self.nap is None:
            self.nap = time.monotonic() + NAP

    # The fetcher's side.

    def wish(self) -> Wish | None:
        """Return what to take next, or ``None`` while enough is in hand."""
        # First the mark, then the count: who settles an event meanwhile sees the one, or is seen.
        self._low = self.demand.low
        return self.demand.wish(self._in_hand)

    @property
    def may_take_suspect(self) -> bool:
        """Whether no suspect of an earlier death is in hand."""
        return self._suspects == 0

    def deliver(self, parcel: Parcel) -> None:
        """Hand what a take brought to the workers."""
        with self._changed:
            self._parcels.append(parcel)
            self._in_hand += parcel.events
            self._suspects += parcel.suspect
            self._changed.notify()

    # The workers' side.

    def receive(self) -> list[Hold]:
        """Wait for chunks; an empty list means that the subscription stops."""
        with self._changed:
            while not (self._inbox or self.closed):
                if self._parcels:
                    self._unpack()
                else:
                    self._changed.wait()
            if self.closed:
                return []
            if self.definition.handler.is_batch:
                return self._next_batch()
            count = min(self._share(), len(self._inbox))
            return [self._inbox.popleft() for _ in range(count)]

    def _share(self) -> int:
        """Return how many chunks a worker is to take at once.

        Handing one over costs as much as the call of a fast handler.
        """
        seconds = self.demand.seconds
        if seconds >= SHORT:
            return 1
        fair = len(self._inbox) // (2 * self.definition.concurrency)
        return max(1, min(MOST_CHUNKS, max(fair, int(TINY / max(seconds, 1e-6)))))

    def _next_batch(self) -> list[Hold]:
        """Return what waits, as long as it is one batch's: nothing is waited for."""
        while self._parcels:
            self._unpack()
        holds = [self._inbox.popleft()]
        events = holds[0].unsettled
        while self._inbox and self._inbox[0].session is holds[0].session:
            events += self._inbox[0].unsettled
            if events > self.definition.batch:
                break
            holds.append(self._inbox.popleft())
        return holds

    def _unpack(self) -> None:
        parcel = self._parcels.popleft()
        holds = parcel.unpack()
        self._inbox.extend(holds)
        self._in_hand += sum(hold.unsettled for hold in holds) - parcel.events
        self._suspects += sum(hold.chunk.suspect for hold in holds) - parcel.suspect
        self._changed.notify(len(holds))

    def pause(self, seconds: float) -> None:
        """Wait, unless the subscription stops."""
        with self._ended:
            self._ended.wait_for(lambda: self.closed, seconds)

    # The settler's side.

    def settled(self, portions: Iterable[tuple[Hold, int, bool]]) -> bool:
        """Note how many events of chunks are settled, and whether their lanes were let go.

        Returns:
            Whether the fetcher should look: too few are left in hand, as far as it last knew, and
            there may be more.
        """
        freed = False
        with self._lock:
            for hold, events, released in portions:
                if hold.released:
                    continue
                if released:
                    hold.released = True
                    events = hold.unsettled
                    self._suspects -= hold.chunk.suspect
                hold.unsettled -= events
                self._in_hand -= events
                freed = freed or released
        if freed:
            self.look()
        return self._in_hand <= self._low and (self.ready or self.nap is not None)

    # Stopping.

    def close(self) -> list[Hold]:
        """Let the workers go after what they handle now; return what was not begun."""
        with self._changed:
            self.closed = True
            while self._parcels:
                self._unpack()
            left, self._inbox = self._inbox, deque()
            self._changed.notify_all()
            self._ended.notify_all()
        return list(left)

"""Taking leases, and what an idle process asks.

The protocol itself, with the races it closes, is described in ``sql/migrations/0003_leases.sql``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import psycopg

from pgbus.core.walk import Step
from pgbus.model.delivery import LAST_LANE, Chunk, Message
from pgbus.store.arrays import numbers
from pgbus.store.query import Operation, Query, Rows, ask, fetch
from pgbus.store.statements import statement


@dataclass(frozen=True, slots=True)
class Take:
    """A wish for leases."""

    subscription: int
    name: str
    worker: int
    token: int
    """New for every take of a worker, so that one whose reply was lost can be given back."""
    step: Step
    """Where to look for free lanes."""
    lanes: int
    quantity: int
    """How many events of a lane at most."""
    size: int
    """How many bytes of bodies in all."""
    suspects: bool
    """Whether a suspect of an earlier worker's death may be among them."""
    awake: bool
    """Whether to say that this process sleeps no longer."""
    careful: bool = False
    """Whether a body that PostgreSQL cannot make text of comes as ``None``, which is slower."""


class Leased(NamedTuple):
    """The lanes that a take won."""

    chunks: list[Chunk]
    empty: list[int]
    """Those that turned out to have nothing: they are ours, and must be given back."""


class Taken:
    """What a take won: the sum of it, and the rows, which may be read later and elsewhere."""

    def __init__(self, wish: Take, rows: Rows) -> None:
        self._wish = wish
        self._rows = rows
        self._last = len(rows) - 1
        [(live, seen, contested, _, _, _, lanes, vain, suspect)] = rows.load(
            self._last, self._last + 1
        )
        self.lanes: int = lanes
        """How many lanes were won, with those that turned out to have nothing."""
        self.contested: bool = contested
        """Whether another process won most of what seemed to be free."""
        self.events: int = self._last - vain
        """How many events there are to be handled, at most."""
        self.whole: bool = not vain
        """Whether there is nothing else: no lane to be given back at once, say."""
        self.suspect: bool = suspect
        """Whether one of them is the suspect of a worker's death."""
        self.resume: int | None = None if seen is None or seen >= LAST_LANE else seen + 1
        """Where the next step of the walk begins; ``None`` where this one came to the end."""
        self.live: int | None = live
        """Of a step by arrival the first event whose lane was free or, where none was, the one
        behind the last; ``None`` where there was none to look at."""

    def read(self) -> Leased:
        """Return the lanes with their events."""
        chunks: dict[int, Chunk] = {}
        closed = set()
        empty = []
        rows: list[_Row] = self._rows.load(0, self._last)
        for lane, msg_id, available, enqueued_at, body, headers, failures, deaths, suspect in rows:
            if msg_id is None:
                empty.append(lane)
                continue
            if lane in closed:
                continue
            if not available:
                # The key's next event waits for its time, and its successors behind it.
                closed.add(lane)
                if lane not in chunks:
                    empty.append(lane)
                continue
            troubled = failures is not None
            message = Message(
                msg_id, enqueued_at, body, headers, failures or 0, deaths or 0, troubled
            )
            chunk = chunks.get(lane)
            if chunk is None:
                wish = self._wish
                chunks[lane] = Chunk(wish.subscription, lane, wish.token, suspect, [message])
            else:
                chunk.messages.append(message)
        return Leased(list(chunks.values()), empty)


class Polled(NamedTuple):
    """What an idle process learns of one subscription (or, without one, of scheduled events).

    ``ready`` says that there may be something to take (or that the poll has moved what was due).
    """

    subscription: int | None
    ready: bool | None
    next_due: float | None
    """Seconds until something becomes visible."""
    asleep: bool | None


_Row = tuple[
    int,  # lane
    int | None,  # msg_id
    bool | None,  # available
    int,  # enqueued_at
    str | None,  # body
    str | None,  # headers
    int | None,  # failures
    int | None,  # deaths
    bool,  # suspect
]


def take(connection: "psycopg.Connection[Any]", wish: Take) -> Taken:
    """Lease free lanes and read their first events.

    Raises:
        psycopg.errors.ProgramLimitExceeded: PostgreSQL cannot make text of a body; nothing was
            leased. A ``careful`` take can.
        psycopg.Error: the take failed; where the connection broke, it may have won leases.
    """
    return Taken(wish, fetch(connection, *taking(wish)))


def taking(wish: Take) -> tuple[bytes, Sequence[int]]:
    """Return the statement of a take, and its parameters."""
    return statement("lease", "take", take=f"take_{wish.name}"), (
        wish.worker,
        wish.token,
        wish.step.by_arrival,
        wish.step.start,
        wish.step.visits,
        wish.lanes,
        wish.quantity,
        wish.size,
        wish.suspects,
        wish.awake,
        wish.careful,
    )


def poll(subscriptions: Sequence[int], *, sleepy: Sequence[int]) -> Operation[list[Polled]]:
    """Promote scheduled events that are due, and ask what is ready.

    Parameters:
        sleepy: of which of them to become, before the last look, the one whom publishers wake.
    """
    query = Query(statement("lease", "poll"), (numbers(subscriptions), numbers(sleepy)), Polled)
    return (yield from ask(query))

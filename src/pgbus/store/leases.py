"""Taking leases, and what an idle process asks.

The protocol itself, with the races it closes, is described in ``sql/migrations/0003_leases.sql``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from pgbus.core.walk import Step
from pgbus.model.delivery import LAST_LANE, Chunk, Message
from pgbus.store.arrays import numbers
from pgbus.store.query import Operation, Query, ask
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


@dataclass(frozen=True, slots=True)
class Taken:
    """What a take won."""

    chunks: list[Chunk]
    empty: list[int]
    """Lanes that turned out to have nothing: they are ours, and must be given back."""
    resume: int | None
    """Where the next step of the walk begins; ``None`` where this one came to the end."""

    @property
    def lanes(self) -> int:
        """How many lanes were won, with those that turned out to have nothing."""
        return len(self.chunks) + len(self.empty)


class Polled(NamedTuple):
    """What an idle process learns of one subscription (or, without one, of scheduled events)."""

    subscription: int | None
    ready: bool | None
    next_due: float | None
    """Seconds until something becomes visible."""
    asleep: bool | None


_Row = tuple[
    int | None,  # lane
    int | None,  # msg_id
    bool | None,  # available
    datetime,  # enqueued_at
    str | None,  # body
    str | None,  # headers
    int | None,  # failures
    int | None,  # deaths
    bool,  # suspect
]


def _row(*values: Any) -> _Row:
    return values


def take(wish: Take) -> Operation[Taken]:
    """Lease free lanes and read their first events."""
    query = Query(
        statement("lease", "take", take=f"take_{wish.name}"),
        (
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
        ),
        _row,
        prepare=None,
    )
    rows = yield from ask(query)
    last = rows[0][1]
    resume = None if last is None or last >= LAST_LANE else last + 1
    chunks: dict[int, Chunk] = {}
    closed = set()
    empty = []
    for lane, msg_id, available, enqueued_at, body, headers, failures, deaths, suspect in rows[1:]:
        assert lane is not None
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
        message = Message(msg_id, enqueued_at, body, headers, failures or 0, deaths or 0, troubled)
        chunk = chunks.get(lane)
        if chunk is None:
            chunks[lane] = Chunk(wish.subscription, lane, wish.token, suspect, [message])
        else:
            chunk.messages.append(message)
    return Taken(list(chunks.values()), empty, resume)


def poll(subscriptions: Sequence[int], *, sleep: bool) -> Operation[list[Polled]]:
    """Promote scheduled events that are due, and ask what is ready.

    Parameters:
        sleep: before the last look, become the one whom publishers wake.
    """
    query = Query(statement("lease", "poll"), (numbers(subscriptions), sleep), Polled)
    return (yield from ask(query))

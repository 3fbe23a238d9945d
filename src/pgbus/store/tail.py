"""Tails: temporary queues that show live events to whoever looks, and go with their session."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from pgbus.store.query import Operation, Query, ask, nothing, number
from pgbus.store.statements import statement


class Seen(NamedTuple):
    """An event as a tail saw it."""

    number: int
    enqueued_at: datetime
    body: str | None
    """JSON."""
    headers: str | None
    """JSON."""


def start(tail: int, patterns: Sequence[str]) -> Operation[None]:
    """Bind a temporary queue to expanded patterns, for as long as the connection lives.

    Parameters:
        tail: a random 32-bit number, signed. One that is in use is a ``DuplicateObject``.
    """
    yield from ask(Query(statement("tail", "start"), (tail, list(patterns)), nothing))


def read(tail: int, limit: int) -> Operation[list[Seen]]:
    """Take up to ``limit`` events that were not taken yet, oldest first."""
    return (yield from ask(Query(statement("tail", "read"), (tail, limit), Seen)))


def stop(tail: int) -> Operation[None]:
    """Let go of this connection's tail; :func:`sweep` then drops its queue."""
    yield from ask(Query(statement("tail", "stop"), (tail,), nothing))


def sweep() -> Operation[list[int]]:
    """Drop the queues of tails whose connection is gone; return the tails that had to wait."""
    return (yield from ask(Query(statement("tail", "sweep"), (), number)))

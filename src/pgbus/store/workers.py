"""Workers: their row, their heartbeats, and the reaping of those that fell silent."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import msgspec

from pgbus.store.arrays import booleans, numbers
from pgbus.store.query import Operation, Query, ask, ask_one, nothing, number, truth
from pgbus.store.statements import statement


@dataclass(frozen=True, slots=True)
class Declaration:
    """What a worker says of one subscription that it serves."""

    subscription: int
    patterns: tuple[str, ...]
    """Expanded."""
    types: tuple[str, ...]
    """``topic@version`` of each event type that it can decode; ``topic@``: without a version."""
    any_type: bool


class Reaped(NamedTuple):
    """A worker that was declared dead."""

    service: str
    host: str
    pid: int
    lanes: int


def start(
    worker: int, service: str, host: str, pid: int, lease: float, declared: Sequence[Declaration]
) -> Operation[None]:
    """Register a worker; ``lease`` is in seconds."""
    parameters = (
        worker,
        service,
        host,
        pid,
        lease,
        numbers(one.subscription for one in declared),
        msgspec.json.encode([one.patterns for one in declared]).decode(),
        msgspec.json.encode([one.types for one in declared]).decode(),
        booleans(one.any_type for one in declared),
    )
    yield from ask(Query(statement("worker", "start"), parameters, nothing))


def heartbeat(worker: int) -> Operation[bool]:
    """Extend the worker's life; false where it was declared dead, and every lease of it is lost."""
    return (yield from ask_one(Query(statement("worker", "heartbeat"), (worker,), truth)))


def stop(worker: int) -> Operation[None]:
    """Give back every lease of a worker and forget it."""
    yield from ask(Query(statement("worker", "stop"), (worker,), nothing))


def reap() -> Operation[list[Reaped]]:
    """Declare silent workers dead, let go of their keys, and end what is left of their sessions."""
    reaped = yield from ask(Query(statement("worker", "reap"), (), Reaped))
    yield from ask(Query(statement("worker", "end_sessions"), (), nothing))
    return reaped


def forget(worker: int, tokens: Sequence[int]) -> Operation[int]:
    """Give back what takes won whose replies were lost; return how many lanes."""
    query = Query(statement("worker", "forget"), (worker, numbers(tokens)), number)
    return (yield from ask_one(query))


def forget_published() -> Operation[bool]:
    """Forget a batch of ids whose dedup window is over; true where there may be more."""
    return (yield from ask_one(Query(statement("worker", "forget_published"), (), truth)))


class OldTransaction(NamedTuple):
    """A transaction, anybody's, that has been open for long."""

    application: str
    pid: int
    """Of its session on the server."""
    began: datetime
    seconds: float


def oldest_transaction(seconds: float) -> Operation[OldTransaction | None]:
    """Return the oldest of the transactions that are open for longer than so many seconds."""
    query = Query(statement("worker", "oldest_transaction"), (seconds,), OldTransaction)
    found = yield from ask(query)
    return found[0] if found else None


def known_elsewhere(subscription: int, worker: int, kind: str) -> Operation[bool]:
    """Return whether another live worker of the subscription can decode ``topic@version``.

    Parameters:
        kind: ``topic@`` of an event that does not say its version.
    """
    parameters = (subscription, worker, kind)
    return (yield from ask_one(Query(statement("worker", "known_elsewhere"), parameters, truth)))

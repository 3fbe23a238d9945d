"""Leases and fencing, decided from the audit of the database.

A lease is valid from its grant until its worker lets go of it or is declared dead; anybody else who
ends it is a robber.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.torture.audit import Row
from tests.torture.history import Claims, History, Lane
from tests.torture.laws import Violation


class Holder(NamedTuple):
    """Who holds a lane, or held it last."""

    worker: int
    token: int
    ended_in: int | None = None
    """The transaction that ended it, where it has ended."""


@dataclass
class _Register:
    """The leases as the audit has told them so far."""

    holders: dict[Lane, Holder] = field(default_factory=dict)
    claims: Claims = field(default_factory=Claims)
    bereft: dict[int, str] = field(default_factory=dict)
    """Workers that a lease was taken from, though nobody had declared them dead."""
    dead: set[int] = field(default_factory=set)
    born: set[int] = field(default_factory=set)


def leases(history: History) -> Iterator[Violation]:
    """X and F: one valid lease at a time, and nobody else changes anything."""
    register = _Register()
    for row in history.audit:
        match row.kind:
            case "born" | "beat" | "died":
                yield from _life(register, row)
            case "grant" | "end" | "buried" | "robbed":
                yield from _lease(register, row)
            case "claim":
                register.claims.note(row)
            case "settled" | "retried":
                yield from _fenced(register, row)
    for worker in register.dead if history.calm else ():
        yield Violation("B", f"{_worker(worker)} was declared dead, and nothing had befallen it")
    for lease in history.leases:
        yield Violation(
            "B",
            f"{lease.subscription}: lane {lease.lane} is still leased to {_worker(lease.worker)}, "
            "and nothing is in hand",
        )


def _life(register: _Register, row: Row) -> Iterator[Violation]:
    assert row.worker is not None
    if row.kind == "born":
        register.born.add(row.worker)
    elif row.kind == "died":
        if row.worker in register.dead:
            yield Violation("X", f"{_worker(row.worker)} was heard of after it was declared dead")
        register.dead.add(row.worker)
    elif row.worker in register.bereft:
        yield Violation(
            "X",
            f"{_worker(row.worker)} lives, and {register.bereft.pop(row.worker)} was taken from it",
        )


def _lease(register: _Register, row: Row) -> Iterator[Violation]:
    assert row.subscription is not None
    assert row.lane is not None
    assert row.worker is not None
    assert row.token is not None
    lane = (row.subscription, row.lane)
    holder = register.holders.get(lane)
    name = f"{row.subscription}: lane {row.lane}"
    if row.kind == "grant":
        if holder is not None and holder.ended_in is None:
            yield Violation(
                "X",
                f"{name} was given to {_worker(row.worker)} while {_worker(holder.worker)} had it",
            )
        register.holders[lane] = Holder(row.worker, row.token)
        return
    if holder != (row.worker, row.token, None):
        yield Violation("X", f"{name} was let go for {_worker(row.worker)}, who did not hold it")
    if row.kind == "robbed":
        yield Violation("X", f"{name} was taken from {_worker(row.worker)}, whom nobody buried")
    if row.kind == "buried" and row.worker in register.born - register.dead:
        register.bereft.setdefault(row.worker, name)
    register.holders[lane] = Holder(row.worker, row.token, row.xid)


def _fenced(register: _Register, row: Row) -> Iterator[Violation]:
    assert row.subscription is not None
    assert row.lane is not None
    what = f"{row.subscription}: {row.uid} (message {row.msg_id}, lane {row.lane})"
    claim = register.claims.of(row)
    if claim is None:
        yield Violation("F", f"{what} was {row.kind} by nobody who said that it held the lane")
        return
    holder = register.holders.get((row.subscription, row.lane))
    if holder is None or holder[:2] != claim or holder.ended_in not in (None, row.xid):
        yield Violation(
            "F",
            f"{what} was {row.kind} by {_worker(claim[0])}, which had lost its lease",
        )


def fenced(history: History) -> int:
    """How often a worker was refused to settle events whose lease had been taken from it."""
    taken: set[tuple[str | None, int | None, int | None, int | None]] = set()
    refused: Counter[tuple[str | None, int | None, int | None, int | None]] = Counter()
    for row in history.audit:
        lease = (row.subscription, row.lane, row.worker, row.token)
        if row.kind == "buried":
            taken.add(lease)
        elif row.kind == "refused":
            refused[lease] += 1
    return sum(times for lease, times in refused.items() if lease in taken)


def _worker(worker: int) -> str:
    return f"worker {worker:x}"

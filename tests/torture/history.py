"""What happened in a run, put in order: the log of its processes and the tables of its database."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from tests.torture.audit import Effect, Lease, Row, Stored
from tests.torture.records import (
    Begin,
    Broken,
    Declared,
    End,
    Fate,
    Intent,
    Message,
    Outcome,
    Record,
)

NEVER = 1 << 63
FOLLOW = "follow"
"""The subscription of what handlers publish through their context."""


def follow_up(uid: str, subscription: str) -> str:
    """The uid of what the handler of ``subscription`` publishes about the event ``uid``."""
    return f"{uid}>{subscription}"


class Published(NamedTuple):
    """One event that somebody meant to publish."""

    message: Message
    batch: str
    place: int
    began: int
    ended: int
    """When its publisher was told that it is committed; ``NEVER`` where it was not."""
    fate: Fate


class Settled(NamedTuple):
    """A message that was deleted from its queue, and on whose word."""

    at: int
    """The place in the audit of the first of its lane that was settled in the same transaction:
    what is settled at once has no order."""
    subscription: str
    lane: int
    uid: str
    worker: int | None
    """Who asked to settle its lane in that transaction, if anybody did."""


@dataclass
class History:
    """Everything a verdict rests on. The first three come from the log, the rest from tables."""

    records: Sequence[Record]
    audit: Sequence[Row] = ()
    effects: Sequence[Effect] = ()
    letters: Sequence[Stored] = ()
    left: Sequence[Stored] = ()
    """What was still in the queues at the end, after everything had time to be handled."""
    leases: Sequence[Lease] = ()
    """What was still leased then, with nothing left to do."""
    drained: bool = True
    calm: bool = False
    """Whether nothing befell any worker, so that none may be declared dead."""
    clock: float = 0.0
    """The epoch minus the monotonic clock, in seconds."""

    @cached_property
    def published(self) -> dict[str, Published]:
        """Every event that was meant to be published, by uid."""
        outcomes = {one.batch: one for one in self.records if isinstance(one, Outcome)}
        found = {}
        for one in self.records:
            if isinstance(one, Intent):
                outcome = outcomes.get(one.batch)
                fate: Fate = outcome.fate if outcome else "unknown"
                ended = outcome.at if outcome and fate == "committed" else NEVER
                for place, message in enumerate(one.messages):
                    found[message.uid] = Published(message, one.batch, place, one.at, ended, fate)
        return found

    @cached_property
    def declared(self) -> list[Declared]:
        return [one for one in self.records if isinstance(one, Declared)]

    @cached_property
    def broken(self) -> list[Broken]:
        return [one for one in self.records if isinstance(one, Broken)]

    @cached_property
    def transactional(self) -> set[str]:
        return {one.subscription for one in self.declared if one.transactional}

    @cached_property
    def first_begins(self) -> dict[tuple[str, str], Begin]:
        """The first delivery of each (subscription, uid)."""
        first: dict[tuple[str, str], Begin] = {}
        for one in self.records:
            if isinstance(one, Begin):
                known = first.get((one.subscription, one.uid))
                if known is None or one.at < known.at:
                    first[one.subscription, one.uid] = one
        return first

    @cached_property
    def returned(self) -> set[tuple[str, str, int]]:
        """Which (subscription, uid) returned from its handler in which process."""
        return {
            (one.subscription, one.uid, one.pid) for one in self.records if isinstance(one, End)
        }

    @cached_property
    def processes(self) -> dict[int, int]:
        """The process of each worker."""
        born = (row for row in self.audit if row.kind == "born")
        return {row.worker: row.pid for row in born if row.worker and row.pid}

    @cached_property
    def settled(self) -> dict[tuple[str, str], list[Settled]]:
        """How often each (subscription, uid) was deleted from its queue, in order."""
        found: dict[tuple[str, str], list[Settled]] = defaultdict(list)
        claims: dict[tuple[int, str, int], int] = {}
        first: dict[tuple[int, str, int], int] = {}
        for at, row in enumerate(self.audit):
            if row.subscription is None or row.lane is None:
                continue
            place = (row.xid, row.subscription, row.lane)
            if row.kind == "claim" and row.worker is not None:
                claims[place] = row.worker
            elif row.kind == "settled" and row.uid is not None:
                moment = first.setdefault(place, at)
                one = Settled(moment, row.subscription, row.lane, row.uid, claims.get(place))
                found[row.subscription, row.uid].append(one)
        return found

    @cached_property
    def buried(self) -> dict[tuple[str, str], int]:
        """How many dead letters each (subscription, uid) became."""
        return _count(self.letters)

    @cached_property
    def waiting(self) -> dict[tuple[str, str], int]:
        """How often each (subscription, uid) was still in its queue at the end."""
        return _count(self.left)

    @cached_property
    def effective(self) -> dict[tuple[str, str], list[Effect]]:
        """What each (subscription, uid) committed through its handler's connection."""
        found: dict[tuple[str, str], list[Effect]] = defaultdict(list)
        for effect in self.effects:
            found[effect.subscription, effect.uid].append(effect)
        return found

    def done(self, subscription: str, uid: str) -> bool:
        """Whether it was acknowledged, rather than given up."""
        pair = (subscription, uid)
        return pair in self.settled and pair not in self.buried


def _count(stored: Sequence[Stored]) -> dict[tuple[str, str], int]:
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for one in stored:
        counts[one.subscription, one.uid] += 1
    return counts

"""What happened in a run: the log of its processes and the tables of its database, gone through.

An hour of it has no place in memory: whatever there is one of for each event is an iterable that
reads its file anew. What follows from it for one event is in ``account``.
"""

from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import msgspec

from tests.torture.audit import Effect, Lease, Row, Stored
from tests.torture.records import (
    Begin,
    Broken,
    Declared,
    Dropping,
    End,
    Fate,
    Intent,
    Message,
    Outcome,
    Over,
    Record,
)

NEVER = 1 << 63
FOLLOW = "follow"
"""The subscription of what handlers publish through their context."""
RECENT = 20_000
"""Transactions that are remembered: with so many others between two rows of one, its claims are
forgotten, and the checker objects to what it settled, rather than to overlook something."""

Pair = tuple[str, str]
"""A subscription and a uid."""
Lane = tuple[str, int]


def follow_up(uid: str, subscription: str) -> str:
    """The uid of what the handler of ``subscription`` publishes about the event ``uid``."""
    return f"{uid}>{subscription}"


class Published(msgspec.Struct, tag="published", array_like=True, frozen=True):
    """One event that somebody meant to publish."""

    message: Message
    batch: str
    place: int
    began: int
    ended: int
    """When its publisher was told that it is committed; ``NEVER`` where it was not."""
    fate: Fate

    @property
    def label(self) -> str:
        """What an account of a violation calls it."""
        message = self.message
        return f"{message.uid} (key {message.key}, {message.topic}, {self.fate})"


class Settled(msgspec.Struct, tag="settled", array_like=True, frozen=True):
    """A message that was deleted from its queue, and on whose word."""

    at: int
    """The place in the audit of the first of its lane that was settled in the same transaction:
    what is settled at once has no order."""
    xid: int
    subscription: str
    lane: int
    uid: str
    worker: int | None
    """Who asked to settle its lane in that transaction, if anybody did."""
    when: int
    """Of the monotonic clock, a little before or after."""


class Letter(msgspec.Struct, tag="letter", array_like=True, frozen=True):
    """A message became a dead letter, or its dead letter was put back, or dropped."""

    kind: str
    """``letter``, ``redriven``, ``dropped``."""
    at: int
    """Of the monotonic clock, a little before or after."""
    xid: int
    subscription: str
    lane: int
    uid: str


Item = Published | Begin | End | Settled | Letter | Effect
"""What there is one of for an event, or several."""


class Claims:
    """Who asked to settle which lane, by transaction; the latest transactions are remembered."""

    def __init__(self) -> None:
        self._known: OrderedDict[int, dict[Lane, tuple[int, int]]] = OrderedDict()

    def note(self, row: Row) -> None:
        """Take down a row of the kind ``claim``."""
        assert row.subscription is not None
        assert row.lane is not None
        assert row.worker is not None
        assert row.token is not None
        claims = self._known.setdefault(row.xid, {})
        claims[row.subscription, row.lane] = row.worker, row.token
        if len(self._known) > RECENT:
            self._known.popitem(last=False)

    def of(self, row: Row) -> tuple[int, int] | None:
        """The worker and token that claimed the row's lane in its transaction."""
        assert row.subscription is not None
        assert row.lane is not None
        return self._known.get(row.xid, {}).get((row.subscription, row.lane))


@dataclass
class Frame:
    """What there is little of, and what all events are judged by."""

    declared: list[Declared] = field(default_factory=list)
    broken: list[Broken] = field(default_factory=list)
    dropping: set[Pair] = field(default_factory=set)
    """Whose dead letters somebody meant to drop."""
    over: dict[int, int] = field(default_factory=dict)
    """When each transaction that redrove something had been committed."""
    processes: dict[int, int] = field(default_factory=dict)
    """The process of each worker."""
    buried: dict[Lane, list[int]] = field(default_factory=lambda: defaultdict(list))
    """When a lane was taken from a worker that was declared dead: of the monotonic clock."""
    troubled: set[Lane] = field(default_factory=set)
    """Where something became a dead letter."""

    @cached_property
    def transactional(self) -> set[str]:
        return {one.subscription for one in self.declared if one.transactional}

    @cached_property
    def parking(self) -> set[str]:
        return {one.subscription for one in self.declared if one.parks}


@dataclass
class History:
    """Everything a verdict rests on. ``records`` come from the log, the rest from tables."""

    records: Iterable[Record]
    audit: Iterable[Row] = ()
    effects: Iterable[Effect] = ()
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
    def frame(self) -> Frame:
        frame = Frame()
        for one in self.records:
            match one:
                case Declared():
                    frame.declared.append(one)
                case Broken():
                    frame.broken.append(one)
                case Dropping():
                    frame.dropping.update((one.subscription, uid) for uid in one.uids)
                case Over():
                    frame.over.update((xid, one.at) for xid in one.xids)
        for row in self.audit:
            _note(frame, row, self.clock)
        return frame

    def items(self) -> Iterator[Item]:
        """Everything about single events, in no order but that of its own kind."""
        yield from _told(self.records)
        yield from _settled(self.audit, self.clock)
        yield from self.effects


def _note(frame: Frame, row: Row, clock: float) -> None:
    if row.kind == "born" and row.worker is not None and row.pid is not None:
        frame.processes[row.worker] = row.pid
    elif row.subscription is not None and row.lane is not None:
        if row.kind == "buried":
            frame.buried[row.subscription, row.lane].append(_moment(row, clock))
        elif row.kind == "letter":
            frame.troubled.add((row.subscription, row.lane))


def _told(records: Iterable[Record]) -> Iterator[Item]:
    unanswered: dict[str, Intent] = {}
    for one in records:
        match one:
            case Intent():
                unanswered[one.batch] = one
            case Outcome():
                yield from _events(unanswered.pop(one.batch), one)
            case Begin() | End():
                yield one
    for intent in unanswered.values():
        yield from _events(intent, None)


def _events(intent: Intent, outcome: Outcome | None) -> Iterator[Published]:
    fate: Fate = outcome.fate if outcome else "unknown"
    ended = outcome.at if outcome and fate == "committed" else NEVER
    for place, message in enumerate(intent.messages):
        yield Published(message, intent.batch, place, intent.at, ended, fate)


def _settled(audit: Iterable[Row], clock: float) -> Iterator[Item]:
    claims = Claims()
    latest: dict[Lane, tuple[int, int]] = {}
    for at, row in enumerate(audit):
        if row.kind == "claim":
            claims.note(row)
        if row.uid is None or row.subscription is None or row.lane is None:
            continue
        if row.kind == "settled":
            lane = row.subscription, row.lane
            # A lane is settled by one transaction after the other.
            if latest.get(lane, (-1, 0))[0] != row.xid:
                latest[lane] = row.xid, at
            claim = claims.of(row)
            yield Settled(
                latest[lane][1],
                row.xid,
                row.subscription,
                row.lane,
                row.uid,
                claim and claim[0],
                _moment(row, clock),
            )
        elif row.kind in ("letter", "redriven", "dropped"):
            moment = _moment(row, clock)
            yield Letter(row.kind, moment, row.xid, row.subscription, row.lane, row.uid)


def _moment(row: Row, clock: float) -> int:
    """When a row was written, of the monotonic clock."""
    return int((row.at - clock) * 1e9)

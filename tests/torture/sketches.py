"""The smallest histories, written by hand: what tests of the laws are made of."""

from collections.abc import Sequence

from tests.torture import checker
from tests.torture.audit import Row, Stored
from tests.torture.history import History
from tests.torture.records import Begin, Declared, End, Fate, Intent, Message, Outcome, Record

PLAIN = "plain"
WORKER, PID, LANE, TOKEN = 7, 70, 1, 1


def published(
    batch: str, at: int, *uids: str, fate: Fate = "committed", how: str = "ok"
) -> list[Record]:
    """Events of one key, published from ``at`` to ``at + 1``."""
    messages = [Message(uid, "k", "work", how) for uid in uids]
    return [Intent(batch, at, messages), Outcome(batch, at + 1, fate)]


def handled(uid: str, at: int, subscription: str = PLAIN) -> list[Record]:
    return [
        Begin(subscription, uid, "k", 1, PID, at),
        End(subscription, uid, PID, at + 1),
    ]


def held(*steps: Row, xid: int = 1) -> list[Row]:
    """A worker is born, gets the lane, does some steps, and lets go."""
    return [
        row("born", pid=PID),
        row("grant"),
        *(step._replace(xid=xid) for step in steps),
        row("end", xid=xid),
    ]


def row(kind: str, uid: str | None = None, *, pid: int | None = None, xid: int = 0) -> Row:
    number = int(uid.removeprefix("e")) if uid is not None and uid[1:].isdigit() else None
    return Row(0.0, xid, kind, PLAIN, LANE, WORKER, TOKEN, msg_id=number, uid=uid, pid=pid)


def settled(*uids: str) -> list[Row]:
    return [row("claim"), *(row("settled", uid) for uid in uids)]


def objections(history: History) -> set[str]:
    return {one.law for one in checker.check(history)}


DECLARED = Declared(PLAIN, ["work"], False, 0, 1)
ONE = [DECLARED, *published("b1", 10, "e1"), *handled("e1", 20)]
TWO = [DECLARED, *published("b1", 10, "e1"), *published("b2", 12, "e2")]
WELL_DONE = held(*settled("e1"))
WELL = History(ONE, audit=WELL_DONE)

PARKING = Declared(PLAIN, ["work"], False, 0, 1, parks=True)
REDRIVE = 50
"""The transaction of a redrive."""
REJECTED: list[Record] = [
    Intent("b1", 10, [Message("e1", "k", "work", "reject")]),
    Outcome("b1", 11, "committed"),
]
BEGUN = Begin(PLAIN, "e1", "k", 1, PID, 20)


def lease(xid: int, *steps: Row, at: float = 0.0) -> list[Row]:
    """A worker that was born gets the lane at a time, does some steps, and lets go."""
    return [row("grant")._replace(at=at), *held(*steps, xid=xid)[2:]]


def given_up(*uids: str) -> list[Row]:
    return [*settled(*uids), *(row("letter", uid) for uid in uids)]


def lifted(kind: str = "redriven") -> Row:
    return row(kind, "e1", xid=REDRIVE)


BORN = row("born", pid=PID)
GIVEN_UP = [BORN, *lease(1, *given_up("e1"))]
LETTER = [Stored(PLAIN, "e1")]
BACK = [*GIVEN_UP, lifted()]
SEEN = [*BACK, row("over", xid=REDRIVE)._replace(subscription=None, lane=None, at=5.0)]


def at(moment: float, rows: Sequence[Row]) -> list[Row]:
    """The rows as they are written at a moment."""
    return [one._replace(at=moment) for one in rows]

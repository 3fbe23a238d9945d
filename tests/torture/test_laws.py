"""Each law, on the smallest history that breaks it, and on the like that does not."""

from collections.abc import Sequence
from dataclasses import replace

import msgspec
import pytest

from tests.torture import checker
from tests.torture.audit import Effect, Lease, Row, Stored
from tests.torture.behaviour import ATTEMPTS
from tests.torture.history import FOLLOW, History, follow_up
from tests.torture.records import (
    Begin,
    Broken,
    Declared,
    Dropping,
    End,
    Fate,
    Fault,
    Gone,
    Intent,
    Message,
    Outcome,
    Over,
    Record,
)

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


def test_a_good_history_is_passed() -> None:
    assert checker.check(WELL) == []


@pytest.mark.parametrize(
    ("law", "history"),
    [
        pytest.param("L", History(ONE), id="it vanished"),
        pytest.param("L", replace(WELL, left=[Stored(PLAIN, "e1")]), id="settled, and still there"),
        pytest.param("L", replace(WELL, letters=[Stored(PLAIN, "e1")] * 2), id="two dead letters"),
        pytest.param(
            "L",
            History(ONE[:-1], audit=held(*settled("e1"))),
            id="settled before its handler returned",
        ),
        pytest.param(
            "L",
            History([*ONE, *published("b2", 10, "e2", fate="rolled back"), *handled("e2", 30)]),
            id="rolled back, and there",
        ),
        pytest.param("L", History([*ONE, *handled("ghost", 30)]), id="nobody published it"),
        pytest.param(
            "L",
            History(
                [DECLARED, *published("b", 10, "e1", "e2", fate="unknown"), *handled("e1", 20)],
                audit=held(*settled("e1")),
            ),
            id="half of a call",
        ),
        pytest.param(
            "O",
            History(
                [*TWO, *handled("e2", 20), *handled("e1", 30)],
                audit=held(*settled("e1", "e2")),
            ),
            id="delivered in the wrong order",
        ),
        pytest.param(
            "O",
            History(
                [*TWO, *handled("e1", 20), *handled("e2", 30)],
                audit=[
                    *held(*settled("e2")),
                    *(one._replace(xid=2) for one in held(*settled("e1"))[1:]),
                ],
            ),
            id="settled in the wrong order",
        ),
        pytest.param(
            "O",
            History(
                [
                    DECLARED,
                    *published("b", 10, "e1", "e2"),
                    *handled("e2", 20),
                    *handled("e1", 30),
                ],
                audit=held(*settled("e1", "e2")),
            ),
            id="a call's own order",
        ),
        pytest.param("X", replace(WELL, audit=[row("grant"), *WELL.audit]), id="granted twice"),
        pytest.param(
            "F",
            replace(WELL, audit=[*WELL_DONE[:3], row("end"), *settled("e1")[1:]]),
            id="settled by nobody who claimed it",
        ),
        pytest.param("B", replace(WELL, leases=[Lease(PLAIN, LANE, WORKER)]), id="a lease is left"),
        pytest.param("B", replace(WELL, drained=False), id="not at rest"),
        pytest.param(
            "B", replace(WELL, records=[*ONE, Broken("worker", 1, 1)]), id="a process broke"
        ),
        pytest.param(
            "B",
            replace(WELL, records=[*ONE, Broken("worker", 1, None)]),
            id="a process did not end",
        ),
        pytest.param(
            "X",
            replace(WELL, audit=[*WELL_DONE[:2], row("robbed"), *WELL_DONE[1:]]),
            id="robbed",
        ),
        pytest.param(
            "B", replace(WELL, calm=True, audit=[*WELL.audit, row("died")]), id="needlessly dead"
        ),
    ],
)
def test_a_broken_law_is_seen(law: str, history: History) -> None:
    assert law in objections(history)


def test_transactions_that_overlap_may_come_in_either_order() -> None:
    overlapping = [DECLARED, *published("b1", 10, "e1"), *published("b2", 10, "e2")]
    records = [*overlapping, *handled("e2", 20), *handled("e1", 30)]
    assert objections(History(records, audit=held(*settled("e1", "e2")))) == set()


def test_what_nobody_knows_the_fate_of_may_be_there_or_not() -> None:
    unknown = [DECLARED, *published("b1", 10, "e1", fate="unknown")]
    assert objections(History(unknown)) == set()
    there = History([*unknown, *handled("e1", 20)], audit=held(*settled("e1")))
    assert objections(there) == set()


def ledger(*effects: Effect, audit: Sequence[Row] = WELL_DONE) -> History:
    transactional = Declared(PLAIN, ["work"], True, 0, 1)
    return History([transactional, *ONE[1:]], audit=audit, effects=effects)


def test_effects_happen_exactly_once() -> None:
    effect = Effect(PLAIN, "e1", "k", PID, 20, 21)
    assert objections(ledger(effect)) == set()
    assert objections(ledger()) == {"E"}
    assert "E" in objections(ledger(effect, effect))


def test_effects_of_a_key_do_not_overlap() -> None:
    early, late = Effect(PLAIN, "e1", "k", PID, 20, 30), Effect(PLAIN, "e2", "k", PID, 25, 35)
    assert "X" in objections(ledger(early, late))
    assert "X" not in objections(ledger(early, msgspec.structs.replace(late, began=30)))


def test_what_a_handler_publishes_appears_exactly_once() -> None:
    follows = Declared(FOLLOW, ["follow.up"], False, 0, 1)
    records = [*ONE[:1], follows, *published("b1", 10, "e1", how="follow"), *handled("e1", 20)]
    answer = follow_up("e1", PLAIN)

    def history(times: int) -> History:
        settlements = [
            step._replace(subscription=FOLLOW, xid=5 + time)
            for time in range(times)
            for step in held(*settled(answer), xid=5 + time)[1:]
        ]
        more = [*records, *handled(answer, 30, FOLLOW)] if times else records
        return History(more, audit=[*held(*settled("e1")), *settlements])

    assert objections(history(1)) == set()
    assert objections(history(0)) == {"E"}
    assert objections(history(2)) == {"E"}


def test_recovery_is_told_by_kind_and_only_where_nothing_else_struck() -> None:
    second = 1_000_000_000
    cut = Fault("cut", 30 * second, 31 * second, [PID])
    records = [*ONE, cut, *handled("e1", 33 * second)]
    verdict = checker.judge(replace(WELL, records=records))
    assert verdict.recovery == {"cut": pytest.approx(2.0, abs=0.1)}
    also = Fault("terminate", 32 * second, 32 * second, [PID])
    assert checker.judge(replace(WELL, records=[*records, also])).recovery == {
        "terminate": pytest.approx(1.0, abs=0.1)
    }
    assert (verdict.injected, verdict.duplicates) == (1, 1)
    # Who works on under its number is another.
    gone = Gone(PID, 32 * second)
    assert checker.judge(replace(WELL, records=[*records, gone])).recovery == {}


# Dead letters.

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


def test_what_is_redriven_is_neither_lost_nor_too_much() -> None:
    records: list[Record] = [DECLARED, *REJECTED, BEGUN]
    assert objections(History(records, audit=GIVEN_UP, letters=LETTER)) == set()
    again: list[Record] = [*records, *handled("e1", 40)]
    assert objections(History(again, audit=[*BACK, *lease(2, *settled("e1"))])) == set()
    # It can be given up again, and dropped by who meant to.
    twice = [*BACK, *lease(2, *given_up("e1"))]
    assert objections(History(records, audit=twice, letters=LETTER)) == set()
    dropped = [*twice, lifted("dropped")]
    meant: list[Record] = [*records, Dropping(PLAIN, ["e1"], 50)]
    assert objections(History(meant, audit=dropped)) == set()
    assert objections(History(records, audit=dropped)) == {"L"}


@pytest.mark.parametrize(
    ("audit", "letters"),
    [
        pytest.param(GIVEN_UP, [], id="a dead letter vanishes"),
        pytest.param(BACK, [], id="put back, and gone"),
        pytest.param(BACK, LETTER, id="put back, and still a dead letter"),
        pytest.param([*BACK, *lease(2, *settled("e1"))], LETTER, id="handled, and a dead letter"),
        pytest.param(
            [*BACK, *lease(2, *settled("e1")), *lease(3, *settled("e1"))], [], id="handled twice"
        ),
        pytest.param([BORN, *lease(1, *given_up("e1")[2:])], LETTER, id="a letter beside an event"),
    ],
)
def test_a_dead_letter_that_is_lost_or_too_much_is_seen(
    audit: list[Row], letters: list[Stored]
) -> None:
    records: list[Record] = [DECLARED, *REJECTED, BEGUN, *handled("e1", 40)]
    assert objections(History(records, audit=audit, letters=letters)) == {"L"}


def test_what_is_redriven_comes_before_what_was_published_after_its_redrive() -> None:
    first: list[Record] = [DECLARED, *REJECTED, BEGUN, *published("b2", 60, "e2")]

    def history(over: int, one: str, other: str) -> History:
        records: list[Record] = [
            *first,
            Over([REDRIVE], over),
            *handled(one, 70),
            *handled(other, 80),
        ]
        audit = [*BACK, *lease(2, *settled(one)), *lease(3, *settled(other))]
        return History(records, audit=audit)

    assert objections(history(50, "e1", "e2")) == set()
    assert objections(history(50, "e2", "e1")) == {"O"}
    # It may not have been committed when the other was published.
    assert objections(history(65, "e2", "e1")) == set()


def test_what_is_redriven_comes_before_its_successors_in_the_queue() -> None:
    records: list[Record] = [DECLARED, *REJECTED, *published("b2", 12, "e2"), BEGUN]
    records += [*handled("e2", 70), *handled("e1", 80)]

    def history(taken_at: float) -> History:
        successor = lease(2, *settled("e2"), at=taken_at)
        return History(records, audit=[*SEEN, *successor, *lease(3, *settled("e1"))])

    assert objections(history(taken_at=6.0)) == {"O"}
    # A take that had begun before the redrive was over need not have seen it.
    assert objections(history(taken_at=4.0)) == set()
    together = [*SEEN, *lease(2, *settled("e1", "e2"), at=6.0)]
    assert objections(History(records, audit=together)) == set()


def test_a_call_keeps_its_order_where_it_is_redriven_at_once() -> None:
    rejected = published("b1", 10, "e1", "e2", how="reject")
    begun: list[Record] = [Begin(PLAIN, uid, "k", 1, PID, 20) for uid in ("e1", "e2")]
    records = [DECLARED, *rejected, *begun, *handled("e2", 70), *handled("e1", 80)]

    def history(*audit: Row) -> History:
        return History(records, audit=[BORN, *lease(1, *given_up("e1", "e2")), *audit])

    back, back_later = row("redriven", "e2", xid=REDRIVE), row("redriven", "e1", xid=55)
    first, second = lease(60, *settled("e2")), lease(61, *settled("e1"))
    # Who puts the first of them back when the second has been handled means it so.
    assert objections(history(back, *first, back_later, *second)) == set()
    together = back_later._replace(xid=REDRIVE)
    assert objections(history(together, back, *first, *second)) == {"O"}


def test_what_was_delivered_just_before_it_was_given_up_came_before_its_redrive() -> None:
    ms = 1_000_000
    rejected = published("b1", 10, "e1", "e2", how="reject")
    begun: list[Record] = [Begin(PLAIN, "e1", "k", 1, PID, 40 * ms)]
    begun += [Begin(PLAIN, "e2", "k", 1, PID, 190 * ms)]
    records = [DECLARED, *rejected, *begun, *handled("e1", 220 * ms), *handled("e2", 230 * ms)]
    letters = [*lease(1, *given_up("e1")), *lease(2, *given_up("e2"))]
    back = [row("redriven", uid, xid=REDRIVE)._replace(at=0.2) for uid in ("e1", "e2")]
    audit = [BORN, *letters, *back, *lease(60, *settled("e1", "e2"))]
    assert objections(History(records, audit=audit)) == set()


def test_a_parked_key_waits() -> None:
    records: list[Record] = [PARKING, *REJECTED, *published("b2", 12, "e2"), BEGUN]
    records += [*handled("e1", 70), *handled("e2", 80)]
    both = lease(3, *settled("e1", "e2"))
    assert objections(History(records, audit=[*BACK, *both])) == set()
    behind = [*GIVEN_UP, *lease(2, *settled("e2"))]
    assert objections(History(records, audit=behind, letters=LETTER)) == {"O"}
    at_once = [BORN, *lease(1, *settled("e1", "e2"), row("letter", "e1"))]
    assert objections(History(records, audit=at_once, letters=LETTER)) == {"O"}
    # Without parking, the key goes on.
    going_on: list[Record] = [DECLARED, *records[1:]]
    assert objections(History(going_on, audit=behind, letters=LETTER)) == set()


def test_what_does_no_harm_is_not_given_up_before_it_was_tried_often_enough() -> None:
    deliveries = [Begin(PLAIN, "e1", "k", n, PID, 20 + n) for n in range(ATTEMPTS)]

    def history(count: int, *deaths: Row) -> History:
        records: list[Record] = [DECLARED, *published("b1", 10, "e1"), *deliveries[:count]]
        return History(records, audit=[BORN, *deaths, *GIVEN_UP[1:]], letters=LETTER)

    assert objections(history(ATTEMPTS)) == set()
    assert objections(history(1)) == {"A"}
    # The death of whoever held its key may have been counted.
    death = [row("grant"), row("died"), row("buried")]
    assert objections(history(ATTEMPTS - 1, *death)) == set()


def test_the_effects_of_one_batch_overlap() -> None:
    one, other = Effect(PLAIN, "e1", "k", PID, 20, 30), Effect(PLAIN, "e2", "k", PID, 20, 31)
    assert "X" not in objections(ledger(one, other))
    late = Effect(PLAIN, "e3", "k", PID + 1, 25, 35)
    assert "X" in objections(ledger(one, other, late))


def test_portions_make_no_difference() -> None:
    """Nor does it matter whether they are in memory or in files."""
    records: list[Record] = [DECLARED]
    audit = [row("born", pid=PID)]
    for number in range(40):
        uid = f"e{number}@k{number % 7}" if number % 5 else f"e{number}"
        key = f"k{number % 7}" if number % 5 else None
        message = Message(uid, key, "work", "ok")
        fate: Fate = "unknown" if number % 3 else "committed"
        records += [Intent(f"b{number // 2}", 10 + number, [message])]
        records += [Outcome(f"b{number // 2}", 11 + number, fate)]
        records += handled(uid, 1000 - number) if number % 4 else []
        lane = lease(number + 1, *settled(uid)) if number % 4 else []
        audit += [step._replace(lane=number) for step in lane]
    history = History(records, audit=audit)
    whole, parts = checker.judge(history), checker.judge(history, portions=5)
    assert {one.law for one in whole.violations} == {"L", "O"}
    assert sorted(parts.violations) == sorted(whole.violations)
    assert replace(parts, violations=[]) == replace(whole, violations=[])

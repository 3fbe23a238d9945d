"""Each law, on the smallest history that breaks it, and on the like that does not."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.torture import checker
from tests.torture.audit import Effect, Lease, Row, Stored
from tests.torture.history import FOLLOW, History, follow_up
from tests.torture.records import (
    Begin,
    Broken,
    Declared,
    End,
    Fate,
    Fault,
    Intent,
    Message,
    Outcome,
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
    return Row(0.0, xid, kind, PLAIN, LANE, WORKER, TOKEN, uid=uid, pid=pid)


def settled(*uids: str) -> list[Row]:
    return [row("claim"), *(row("settled", uid) for uid in uids)]


def objections(history: History) -> set[str]:
    return {one.law for one in checker.check(history)}


DECLARED = Declared(PLAIN, ["work"], False, 0, 1)
ONE = [DECLARED, *published("b1", 10, "e1"), *handled("e1", 20)]
TWO = [DECLARED, *published("b1", 10, "e1"), *published("b2", 12, "e2")]
WELL = History(ONE, audit=held(*settled("e1")))


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
            replace(WELL, audit=[*WELL.audit[:3], row("end"), *settled("e1")[1:]]),
            id="settled by nobody who claimed it",
        ),
        pytest.param("B", replace(WELL, leases=[Lease(PLAIN, LANE, WORKER)]), id="a lease is left"),
        pytest.param("B", replace(WELL, drained=False), id="not at rest"),
        pytest.param(
            "B", replace(WELL, records=[*ONE, Broken("worker", 1, 1)]), id="a process broke"
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


def ledger(*effects: Effect, audit: Sequence[Row] = WELL.audit) -> History:
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
    assert "X" not in objections(ledger(early, late._replace(began=30)))


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

"""Each law, on the smallest history that breaks it, and on the like that does not."""

from collections.abc import Sequence
from dataclasses import replace

import msgspec
import pytest

from tests.torture import checker
from tests.torture.audit import Effect, Lease, Row, Stored
from tests.torture.history import FOLLOW, History, follow_up
from tests.torture.records import (
    Broken,
    Declared,
    Fate,
    Fault,
    Gone,
    Intent,
    Message,
    Outcome,
    Record,
)
from tests.torture.sketches import (
    DECLARED,
    LANE,
    ONE,
    PID,
    PLAIN,
    TWO,
    WELL,
    WELL_DONE,
    WORKER,
    handled,
    held,
    lease,
    objections,
    published,
    row,
    settled,
)


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
            replace(WELL, records=[*ONE[:-2], *handled("e1", 5_000_000)]),
            id="settled, and then its handler returned",
        ),
        pytest.param(
            "L",
            History([Declared(PLAIN, ["work"], False, 0, 15), *ONE[1:]]),
            id="it may be there, was, and vanished",
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


def test_what_was_seen_anywhere_has_been_committed() -> None:
    """Though its publisher does not know."""
    records = [DECLARED, *published("b1", 10, "e1", fate="unknown"), *handled("e1", 20)]
    assert objections(History(records)) == {"L"}

    def history(declared_at: int) -> History:
        also = Declared("also", ["work"], False, 0, declared_at)
        return History([also, *records], audit=WELL_DONE)

    assert objections(history(5)) == {"L"}
    # It was not there yet when the event was published.
    assert objections(history(15)) == set()


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


def test_what_handlers_publish_comes_as_what_they_handled_was_settled() -> None:
    follows = Declared(FOLLOW, ["follow.up"], False, 0, 1)
    events = [*published("b1", 10, "e1", how="follow"), *published("b2", 12, "e2", how="follow")]
    parents = [DECLARED, follows, *events, *handled("e1", 20), *handled("e2", 22)]
    first, second = follow_up("e1", PLAIN), follow_up("e2", PLAIN)
    done = [*WELL_DONE, *lease(2, *settled("e2"))]

    def history(*answers: str) -> History:
        records, audit = [*parents], [*done]
        for number, answer in enumerate(answers):
            records += handled(answer, 30 + 2 * number, FOLLOW)
            steps = lease(5 + number, *settled(answer))
            audit += [step._replace(subscription=FOLLOW) for step in steps]
        return History(records, audit=audit)

    assert objections(history(first, second)) == set()
    assert objections(history(second, first)) == {"O"}


def test_what_a_handler_published_and_that_vanished_is_lost() -> None:
    """Though it need not be there, because the handler was not done."""
    follows = Declared(FOLLOW, ["follow.up"], False, 0, 1)
    records = [DECLARED, follows, *published("b1", 10, "e1", fate="unknown", how="follow")]
    answer = handled(follow_up("e1", PLAIN), 30, FOLLOW)
    assert objections(History(records)) == set()
    assert objections(History([*records, *answer])) == {"L"}


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

"""The laws of dead letters, each on the smallest history that breaks it."""

import pytest

from tests.torture.audit import Row, Stored
from tests.torture.behaviour import ATTEMPTS
from tests.torture.history import FOLLOW, History, follow_up
from tests.torture.records import Begin, Declared, Dropping, Over, Record
from tests.torture.sketches import (
    BACK,
    BEGUN,
    BORN,
    DECLARED,
    GIVEN_UP,
    LETTER,
    PARKING,
    PID,
    PLAIN,
    REDRIVE,
    REJECTED,
    SEEN,
    WELL_DONE,
    at,
    given_up,
    handled,
    lease,
    lifted,
    objections,
    published,
    row,
    settled,
)


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
    done = at(0.25, lease(60, *settled("e1", "e2")))
    audit = [BORN, *letters, *back, *done]
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


def deliveries(count: int, moment: int = 20) -> list[Record]:
    return [Begin(PLAIN, "e1", "k", n, PID, moment + n) for n in range(count)]


BURIAL = [row("grant"), row("died"), row("buried")]


@pytest.mark.parametrize("how", ["ok", "fail", "poison"])
def test_nothing_is_given_up_before_it_was_tried_often_enough(how: str) -> None:
    def history(count: int, *deaths: Row) -> History:
        records = [DECLARED, *published("b1", 10, "e1", how=how), *deliveries(count)]
        return History(records, audit=[BORN, *deaths, *GIVEN_UP[1:]], letters=LETTER)

    assert objections(history(ATTEMPTS)) == set()
    assert objections(history(1)) == {"A"}
    # The death of whoever held its key may have been counted.
    assert objections(history(ATTEMPTS - 1, *BURIAL)) == set()


def test_what_asks_to_be_rejected_is_given_up_at_once() -> None:
    records: list[Record] = [DECLARED, *REJECTED, BEGUN]
    assert objections(History(records, audit=GIVEN_UP, letters=LETTER)) == set()


def test_a_death_before_an_event_was_published_is_none_of_its_attempts() -> None:
    second = 1_000_000_000
    records = [DECLARED, *published("b1", second, "e1"), *deliveries(ATTEMPTS - 1, second + 20)]

    def history(death_at: float) -> History:
        letter = at(1.5, lease(1, *given_up("e1")))
        audit = [BORN, *at(death_at, BURIAL), *letter]
        return History(records, audit=audit, letters=LETTER)

    assert objections(history(1.2)) == set()
    assert objections(history(0.5)) == {"A"}


def test_what_is_redriven_has_all_its_attempts_again() -> None:
    second = 1_000_000_000
    once = [DECLARED, *published("b1", 10, "e1"), *deliveries(ATTEMPTS)]
    back = [*at(0.5, GIVEN_UP), *at(0.6, [lifted()])]
    audit = [*back, *at(2.0, lease(2, *given_up("e1")))]

    def history(count: int) -> History:
        records = [*once, *deliveries(count, second)]
        return History(records, audit=audit, letters=LETTER)

    assert objections(history(ATTEMPTS)) == set()
    assert objections(history(ATTEMPTS - 1)) == {"A"}


def test_what_is_redriven_returns_from_its_handler_anew() -> None:
    second = 1_000_000_000
    early: list[Record] = [DECLARED, *REJECTED, *handled("e1", 20)]
    letter = [BORN, *at(1.0, lease(1, *given_up("e1"))), *at(1.5, [lifted()])]
    audit = [*letter, *at(2.0, lease(2, *settled("e1")))]
    assert objections(History(early, audit=audit)) == {"L"}
    assert objections(History([*early, *handled("e1", second * 9 // 5)], audit=audit)) == set()


def test_the_dead_letter_of_what_a_handler_published_is_not_lost() -> None:
    follows, answer = Declared(FOLLOW, ["follow.up"], False, 0, 1), follow_up("e1", PLAIN)
    parent = [DECLARED, follows, *published("b1", 10, "e1", how="follow"), *handled("e1", 20)]
    begun: list[Record] = [Begin(FOLLOW, answer, "k", n, PID, 30 + n) for n in range(ATTEMPTS)]
    letter = [one._replace(subscription=FOLLOW) for one in lease(5, *given_up(answer))]
    audit = [*WELL_DONE, *letter]
    letters = [Stored(FOLLOW, answer)]
    assert objections(History([*parent, *begun], audit=audit, letters=letters)) == set()
    assert objections(History([*parent, *begun], audit=audit)) == {"L"}
    # Nor is it one before it was tried often enough.
    assert objections(History([*parent, begun[0]], audit=audit, letters=letters)) == {"A"}

"""Whether each key's events come in order, and once, is seen across processes."""

from collections.abc import Sequence

import pytest
from benchmarks.orders import order, orders
from benchmarks.tally import SPAWN, Counter, Job, Ledger, Marks, Notebook, Tally

from pgbus import Event

JOB = Job("order")
EVENTS = [order(number, 1) for number in range(4)]


def consume(events: Sequence[Event], tally: Tally, ledger: Ledger) -> None:
    counter = Counter(tally, JOB, ledger)
    for event in events:
        counter.handle(event)


def misplaced(*parts: Sequence[Event]) -> int:
    """Let a consumer each handle its part, one after the other; return how many were misplaced."""
    tallies = [Tally() for _ in parts]
    ledger = Ledger([event for part in parts for event in part])
    for part, tally in zip(parts, tallies, strict=True):
        consume(part, tally, ledger)
    return sum(tally.misplaced for tally in tallies)


def test_consumers_may_take_turns() -> None:
    assert misplaced(EVENTS[:2], EVENTS[2:]) == 0


def test_keys_do_not_wait_for_each_other() -> None:
    two = orders(4, 2)
    assert misplaced(two[1::2], two[::2]) == 0


def test_a_consumer_that_is_late_is_found() -> None:
    """The first handles 0, 1 and 3 before the second handles 2: each by itself is in order."""
    first, second = EVENTS[:2] + EVENTS[3:], EVENTS[2:3]
    assert misplaced(first, second) == 1
    assert misplaced(first) == misplaced(second) == 0


@pytest.mark.parametrize("events", [EVENTS, orders(4, None)], ids=["keyed", "without keys"])
def test_an_event_that_two_consumers_handle_is_found(events: Sequence[Event]) -> None:
    assert misplaced(events, events[-1:]) == 1


def test_a_duplicate_behind_a_late_one_is_found() -> None:
    assert misplaced(EVENTS[:1] + EVENTS[2:], EVENTS[1:3]) == 2


def test_processes_share_what_was_handled() -> None:
    tally, ledger = Tally(), Ledger(EVENTS)
    consume(EVENTS[:3], Tally(), ledger)
    other = SPAWN.Process(target=consume, args=(EVENTS[2:], tally, ledger))
    other.start()
    other.join()
    assert (tally.handled, tally.misplaced) == (2, 1)


def test_a_notebook_knows_no_keys_beforehand() -> None:
    tally = Tally()
    consume([*orders(4, 2), order(1, 1)], tally, Notebook())
    assert (tally.handled, tally.misplaced) == (5, 1)


def test_an_event_of_a_barred_key_must_not_come() -> None:
    tally = Tally()
    consume(orders(4, 2), tally, Notebook(["c-00000001"]))
    assert tally.misplaced == 2


def test_a_notebook_can_be_given_to_a_process() -> None:
    tally, notebook = Tally(), Notebook(["c-00000001"])
    other = SPAWN.Process(target=consume, args=(EVENTS, tally, notebook))
    other.start()
    other.join()
    assert tally.misplaced == 4


def test_marks_tell_of_what_two_consumers_handle() -> None:
    marks, first, second = Marks(4), Tally(), Tally()
    consume(EVENTS[2:], first, marks)
    consume(EVENTS[:3], second, marks)
    assert (first.misplaced, second.misplaced) == (0, 1)

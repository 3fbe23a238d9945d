"""The sustained run ends with an error where one occurred, and judges what it has measured."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from benchmarks.peers import PGBUS
from benchmarks.sustained import (
    BATCH,
    RATE,
    Publisher,
    check,
    course,
    owed,
    plateaus,
    sizes_to_rows,
)

from pgbus import Event
from tests.benchmarks.still import Still

NAME = "the queue's table: rows"


class Taking(Still):
    """Takes what is published, and says so; ``fault`` is raised instead."""

    def __init__(self, fault: Exception | None = None) -> None:
        super().__init__(PGBUS)
        self.fault = fault
        self.taken = 0
        self.said = threading.Event()

    def publish_many(self, events: Sequence[Event], size: int) -> None:
        if self.fault is not None:
            raise self.fault
        self.taken += len(events)
        self.said.set()


def test_what_a_publisher_failed_with_is_raised() -> None:
    with ThreadPoolExecutor(1) as threads:
        publisher = Publisher(Taking(OSError("the server is gone")), threads)
        with pytest.raises(OSError, match="the server is gone"):
            publisher.result()
    assert publisher.ended


def test_a_publisher_tells_how_much_and_how_fast() -> None:
    peer = Taking()
    with ThreadPoolExecutor(1) as threads:
        publisher = Publisher(peer, threads)
        assert peer.said.wait(10)
        rate = publisher.result()
    assert publisher.published == peer.taken
    assert peer.taken >= BATCH
    assert 0 < rate <= RATE


def test_all_that_was_published_has_to_be_handled() -> None:
    check(published=40, handled=40, misplaced=0)
    with pytest.raises(RuntimeError, match="2 of 40 events were not handled"):
        check(published=40, handled=38, misplaced=0)


def test_an_event_out_of_order_ends_the_run() -> None:
    with pytest.raises(RuntimeError, match="1 events twice or out of order"):
        check(published=40, handled=40, misplaced=1)


@pytest.mark.parametrize(
    ("kib", "only", "verdict"),
    [
        (110.0, "", "reached"),
        (110.0, "1,500 events/s", "only at 1,500 events/s"),
        (221.0, "", "MISSED"),
        (221.0, "1,500 events/s", "MISSED"),
    ],
)
def test_a_table_is_compared_with_the_rows_there_may_be(
    kib: float, only: str, verdict: str
) -> None:
    rows = owed(in_hand=10.0, rate=2.0, naptime=50.0)
    seen = {(NAME, "KiB"): [500.0, kib]}
    [figure] = sizes_to_rows(seen, {NAME: 1.0}, rows, only)
    assert figure.verdict == verdict
    assert figure.basis == "at the end, to 110 rows: in flight, or handled in a naptime (50 s)"


@pytest.mark.parametrize(("late", "verdict"), [(109.0, "reached"), (111.0, "MISSED")])
def test_a_plateau_is_as_high_at_the_end_as_in_the_second_quarter(
    late: float, verdict: str
) -> None:
    [figure] = plateaus({(NAME, "KiB"): [1.0, 100.0, 100.0, late]}, "")
    assert (figure.what, figure.verdict) == (f"plateau of {NAME}", verdict)


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([float(n) for n in range(9)], "0, 2, 4, 6, 8"),
        (
            [7_130.0, 48_704.0, 48_704.0, 48_704.0, 48_708.2],
            "7,130, 48,704, 48,704, 48,704, 48,708",
        ),
        ([3.0], "3, 3, 3, 3, 3"),
    ],
)
def test_a_course_begins_at_the_first_value_and_ends_at_the_last(
    values: list[float], shown: str
) -> None:
    assert course(values) == f"at first and by quarters: {shown}"

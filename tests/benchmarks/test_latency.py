"""An event that is not handled is not left out of the percentiles."""

import pytest
from benchmarks.latency import measured
from benchmarks.measure import Case, Series, rounds
from benchmarks.pace import Paced


def test_delays_are_those_of_what_was_published() -> None:
    delays = [0.5, *[0.001] * 10, 0.002, *[0.0] * 8]
    assert measured(range(12), delays) == [*[1.0] * 9, 2.0]


def test_an_event_that_was_not_handled_is_a_failure() -> None:
    with pytest.raises(RuntimeError, match="1 of 4 events were not handled"):
        measured(range(4), [0.1, 0.1, 0.0, 0.1])


def measure(*, ours: bool) -> tuple[list[Series], list[str]]:
    left_out: list[str] = []

    def lose() -> float:
        return measured(range(4), [0.0] * 4)[0]

    case = Case("500 events/s, p50", "one", lose, "ms", ours=ours)
    return rounds([case], 2, tell=lambda text: None, left_out=left_out), left_out


def test_a_peer_that_loses_an_event_is_left_out_with_a_line() -> None:
    series, [line] = measure(ours=False)
    assert not series
    assert "4 of 4 events were not handled" in line


def test_the_program_ends_where_pgbus_loses_an_event() -> None:
    with pytest.raises(RuntimeError, match="not handled"):
        measure(ours=True)


def test_callers_who_share_a_schedule_note_together_what_they_were_given() -> None:
    whole = Paced(1e6, range(5))
    assert len([event for part in (whole[::2], whole[1::2]) for event in part]) == 5
    assert sorted(whole.given) == [*range(5)]

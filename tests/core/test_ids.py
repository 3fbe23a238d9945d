"""UUIDv7, RFC 9562."""

import datetime
from uuid import RFC_4122, UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgbus.core.ids import RANDOM_BYTES, STEP_BYTES, new_event_ids

times = st.integers(0, 2**48 - 2)
randoms = st.binary(min_size=RANDOM_BYTES, max_size=RANDOM_BYTES)
steps = st.binary(min_size=STEP_BYTES, max_size=STEP_BYTES)


def stamp(event_id: UUID) -> int:
    return event_id.int >> 80


def test_the_example_of_the_rfc() -> None:
    # RFC 9562, appendix A.6.
    moment = datetime.datetime(2022, 2, 22, 19, 22, 22, tzinfo=datetime.UTC)
    [made] = new_event_ids(
        int(moment.timestamp() * 1000), ((0xCC3 << 62) | 0x18C4DC0C0C07398F).to_bytes(10, "big")
    )
    assert made == UUID("017F22E2-79B0-7CC3-98C4-DC0C0C07398F")


@given(times, randoms)
def test_layout(now: int, random: bytes) -> None:
    [made] = new_event_ids(now, random)
    assert made.version == 7
    assert made.variant == RFC_4122
    assert stamp(made) == now


@given(st.lists(st.tuples(times, randoms, st.lists(steps)), min_size=2, max_size=20))
def test_ids_rise_whatever_the_clock_does(ticks: list[tuple[int, bytes, list[bytes]]]) -> None:
    last: UUID | None = None
    for now, random, others in ticks:
        several = new_event_ids(now, random + b"".join(others), last)
        assert len(several) == 1 + len(others)
        for made in several:
            assert made.version == 7
            assert made.variant == RFC_4122
            if last is not None:
                assert last < made
                assert str(last) < str(made)
            last = made


def test_a_full_millisecond_runs_into_the_next() -> None:
    full, following = new_event_ids(5, b"\xff" * 10 + bytes(4))
    assert full < following
    assert stamp(following) == 6
    assert new_event_ids(5, bytes(10), full) == [following]


@pytest.mark.parametrize(
    ("now", "random"),
    [(-1, bytes(10)), (2**48, bytes(10)), (1, bytes(9)), (1, bytes(11)), (1, bytes(6)), (1, b"")],
)
def test_refused(now: int, random: bytes) -> None:
    with pytest.raises(ValueError):
        new_event_ids(now, random)

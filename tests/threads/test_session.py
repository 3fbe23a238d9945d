"""A worker's session: what it believes of its leases, and what it is in doubt about."""

import time

import pytest

from pgbus.threads.session import Session

LEASE = 10.0


def test_a_take_without_a_reply_is_given_back_for_two_leases(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A backend that stalled may execute it after it was given back for the first time."""
    began = time.monotonic()
    elapsed = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: began + elapsed)
    session = Session(LEASE)
    first, second = session.next_token(), session.next_token()
    session.doubt(first)
    assert session.doubts() == [first]
    elapsed = LEASE
    session.doubt(second)
    assert session.doubts() == [first, second]
    elapsed = 2 * LEASE + 0.1
    assert session.doubts() == [second]
    elapsed = 3 * LEASE + 0.1
    assert session.doubts() == []


def test_its_leases_last_from_when_a_heartbeat_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not from when its reply came: the database counts from in between."""
    began = time.monotonic()
    elapsed = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: began + elapsed)
    session = Session(LEASE)
    elapsed = LEASE + 0.1
    assert (session.lost, session.dead) == (True, False)
    session.renew(sent_at=began + 1.0)
    assert (session.lost, session.dead) == (False, False)
    elapsed = LEASE + 1.1
    assert (session.lost, session.dead) == (True, False)
    session.renew(sent_at=began + elapsed)
    session.lose()
    assert (session.lost, session.dead) == (True, True)

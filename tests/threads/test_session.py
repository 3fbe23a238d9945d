"""A worker's session: what it believes of its leases, and what it is in doubt about."""

import math
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from pgbus import Bus
from pgbus.store import query, workers
from pgbus.store.leases import Take, Taken, poll, take
from pgbus.store.query import run
from pgbus.threads import fetcher
from pgbus.threads import session as sessions
from pgbus.threads.keeper import Keeper
from pgbus.threads.session import Session
from tests.waiting import eventually

LEASE = 10.0
SLOW = """
create function slow() returns trigger language plpgsql as
    'begin perform pg_sleep(0.5); return null; end';
create trigger slow after delete on pgbus.published for each statement execute function slow()
"""


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
    elapsed = 10 * LEASE  # the database was away: nobody could give it back
    assert session.doubts() == [first]
    session.given_back([first])
    elapsed = 11 * LEASE
    session.doubt(second)
    assert session.doubts() == [first, second]
    session.given_back([first, second])
    elapsed = 12 * LEASE + 0.1
    assert session.doubts() == [second]
    elapsed = 13 * LEASE + 0.1
    assert session.doubts() == []


def test_its_leases_last_from_when_a_heartbeat_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not from when its reply came: the database counts from in between."""
    elapsed = 0.0
    monkeypatch.setattr(sessions, "now", lambda: elapsed)
    session = Session(LEASE)
    elapsed = LEASE + 0.1
    assert (session.lost, session.dead) == (True, False)
    session.renew(sent_at=1.0)
    assert (session.lost, session.dead) == (False, False)
    elapsed = LEASE + 1.1
    assert (session.lost, session.dead) == (True, False)
    session.renew(sent_at=elapsed)
    session.lose()
    assert (session.lost, session.dead) == (True, True)


def test_its_leases_run_out_while_the_machine_is_suspended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the monotonic clock stands still."""
    began = time.clock_gettime(time.CLOCK_BOOTTIME)
    suspended = 0.0

    def clock(number: int) -> float:
        return began + (suspended if number == time.CLOCK_BOOTTIME else 0.0)

    monkeypatch.setattr(time, "clock_gettime", clock)
    session = Session(LEASE)
    token = session.next_token()
    session.doubt(token)
    assert (session.lost, session.dead) == (False, False)
    suspended = 2 * LEASE + 0.1
    assert (session.lost, session.dead) == (True, False)
    assert session.doubts() == [token]  # which nobody could give back meanwhile


def test_nothing_is_taken_under_a_lease_that_ran_out(
    bus_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a SIGSTOP: it could not be relied on, and would be blamed for our death."""
    asked: list[str] = []
    handled, idle = threading.Event(), threading.Event()

    def counted_take(connection: "psycopg.Connection[Any]", order: Take) -> Taken:
        asked.append("take")
        return take(connection, order)

    def counted_poll(*arguments: Any, **options: Any) -> Any:
        asked.append("poll")
        return poll(*arguments, **options)

    with Bus(bus_dsn, lease=0.5) as bus, monkeypatch.context() as silenced:
        silenced.setattr(Keeper, "_beat", lambda self: None)
        silenced.setattr(Keeper, "_tend", lambda self: None)

        @bus.subscribe("a", name="billing")
        def handle(event: Any) -> None:
            handled.set()

        bus.start()
        assert bus._engine is not None
        keeper, stop = bus._engine._keeper, bus._engine._fetcher._stop
        wait = stop.wait

        def noted_wait(timeout: float | None = None) -> bool:
            if timeout == fetcher.EXPIRED:
                idle.set()
            return wait(timeout)

        silenced.setattr(stop, "wait", noted_wait)
        assert idle.wait(20)  # the fetcher has seen it, and what was under way has come back
        assert keeper.session.lost
        silenced.setattr(fetcher, "take", counted_take)
        silenced.setattr(fetcher, "poll", counted_poll)
        bus.publish("a", 1)
        assert not handled.wait(0.5)
        assert asked == []
        silenced.undo()
        assert handled.wait(10)


def test_a_lease_is_counted_from_before_its_heartbeat_was_sent(
    bus_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[float] = []
    renewed: list[tuple[float, float]] = []
    execute, renew = query._execute, Session.renew

    def noted(connection: Any, one: Any, cursor: Any) -> Any:
        if b"heartbeat" in one.text:
            sent.append(sessions.now())
        return execute(connection, one, cursor)

    def noted_renewal(session: Session, sent_at: float) -> None:
        renew(session, sent_at)
        if sent:
            renewed.append((sent_at, sent[-1]))

    monkeypatch.setattr(query, "_execute", noted)
    monkeypatch.setattr(Session, "renew", noted_renewal)
    with Bus(bus_dsn, lease=0.5) as bus:
        bus.subscribe("a", name="billing")(lambda event: None)
        with bus.running():
            eventually(lambda: len(renewed) >= 3)
    assert all(counted_from <= sent_at for counted_from, sent_at in renewed)


def test_heartbeats_go_on_while_many_ids_are_forgotten(bus_dsn: str) -> None:
    """Twelve batches, which take longer than a lease."""
    reaped: list[workers.Reaped] = []
    with Bus(bus_dsn, lease=5) as bus, psycopg.connect(bus_dsn, autocommit=True) as connection:
        connection.execute(
            "insert into pgbus.published select gen_random_uuid(), now() - interval '1 hour' "
            "from generate_series(1, 55001)"
        )
        connection.execute(SLOW)

        def forgotten() -> bool:
            reaped.extend(run(connection, workers.reap()))
            left = connection.execute("select count(*) from pgbus.published").fetchone()
            return left == (0,)

        bus.subscribe("a", name="billing")(lambda event: None)
        with bus.running():
            assert bus._engine is not None
            keeper = bus._engine._keeper
            session = keeper.session
            keeper._tidied_at = -math.inf
            eventually(forgotten)
            assert (keeper.session, session.dead, reaped) == (session, False, [])


def test_who_comes_back_after_an_outage_lets_the_others_come_back_first(
    make_bus: Callable[..., Bus], bus_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was none of the server, which would have told the database so: of the network, say."""
    monkeypatch.setattr(Keeper, "_keep", lambda self: self._stop.wait())
    keepers = []
    for _ in range(2):
        bus = make_bus(lease=1.0)
        bus.subscribe("a", name="billing")(lambda event: None)
        bus.start()
        assert bus._engine is not None
        keepers.append(bus._engine._keeper)
    first, second = keepers
    with psycopg.connect(bus_dsn, autocommit=True) as connection:

        def expired() -> int:
            return connection.execute(
                "select from pgbus.worker w where pgbus.ends_at(w) < clock_timestamp()"
            ).rowcount

        def is_dead_once_more_is_reaped() -> bool:
            first._beat()
            first._tend()
            return (
                connection.execute(
                    "select from pgbus.worker where id = %s and dead_at is not null",
                    [second.session.id],
                ).rowcount
                == 1
            )

        eventually(lambda: expired() == 2 and first.session.lost)
        assert not is_dead_once_more_is_reaped()
        session = second.session
        second._beat()
        assert (second.session, session.dead) == (session, False)
        eventually(is_dead_once_more_is_reaped)  # it has fallen silent alone

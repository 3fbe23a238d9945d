"""The connections that publishing borrows, after they broke."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import psycopg
import pytest

from pgbus import Bus, StoreError
from pgbus.threads import pool
from pgbus.threads.pool import POOL_SIZE, PooledConnection
from tests.proxy import FaultProxy
from tests.waiting import eventually

MANY = 4


@pytest.fixture
def publisher(way: FaultProxy) -> Iterator[Bus]:
    """A bus that has published, and so has its pool."""
    with Bus(way.dsn) as bus:
        bus.publish("a", {})
        yield bus


def in_one_of_three_rounds(way: FaultProxy, play: Callable[[Bus], float], within: float) -> bool:
    """Whether it took no longer, with a bus of its own; a machine that stands still spoils one."""
    for _ in range(3):
        eventually(lambda: way.connections == 0)
        with Bus(way.dsn) as publisher:
            publisher.publish("a", {})
            if play(publisher) < within:
                return True
    return False


def test_any_number_of_broken_connections_delays_a_publish_by_no_more_than_one(
    way: FaultProxy, bus_dsn: str
) -> None:
    def play(publisher: Bus) -> float:
        with ThreadPoolExecutor(MANY) as threads, psycopg.connect(bus_dsn) as gate:
            gate.execute("lock table pgbus.subscription")
            asking = [threads.submit(publisher.status) for _ in range(MANY)]
            eventually(lambda: way.connections >= MANY, message="the pool did not grow")
            gate.rollback()
            for one in asking:
                one.result()
        way.cut()
        began = time.monotonic()
        publisher.publish("a", {})
        return time.monotonic() - began

    # psycopg's own check would have slept for 1, 2 and 4 seconds in between.
    assert in_one_of_three_rounds(way, play, within=3.0)


def test_who_publishes_alone_keeps_to_one_connection(publisher: Bus) -> None:
    with ExitStack() as many:
        for _ in range(MANY):
            many.enter_context(publisher._pool.connection())
    used = set()
    for _ in range(2 * MANY):
        with publisher._pool.connection() as connection:
            used.add(connection.info.backend_pid)
    assert len(used) == 1


def test_however_long_the_server_was_away_a_publish_waits_for_it_no_longer_than_needed(
    way: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "POOL_TIMEOUT", 60.0)

    def play(publisher: Bus) -> float:
        with ThreadPoolExecutor(1) as threads:
            way.refuse()
            tries = way.accepted
            publishing = threads.submit(publisher.publish, "a", {})
            # The pool alone would by now wait for 8 seconds.
            eventually(lambda: way.accepted >= tries + 8, message="it tries too seldom")
            way.accept()
            back = time.monotonic()
            publishing.result()
            return time.monotonic() - back

    assert in_one_of_three_rounds(way, play, within=3.5)


def test_a_session_that_turned_read_only_is_not_used_again(bus_dsn: str) -> None:
    """As after a failover behind an address that stays the same."""
    with Bus(bus_dsn, service="shop") as bus, psycopg.connect(bus_dsn, autocommit=True) as sql:
        database = sql.info.dbname
        bus.subscribe("a", name="billing")(lambda event: None)
        bus.declare()
        bus.publish("a", {})
        sql.execute(f"alter database {database} set default_transaction_read_only = on".encode())
        _end_sessions(sql)
        with pytest.raises(StoreError, match="25006"):
            bus.publish("a", {})
        sql.execute("set default_transaction_read_only = off")
        sql.execute(f"alter database {database} reset default_transaction_read_only".encode())
        # (A session that the pool opened just before may refuse once more.)
        eventually(lambda: _publishes(bus))


def test_a_bus_that_is_closed_amid_a_publish_leaves_no_connection(bus_dsn: str) -> None:
    bus = Bus(bus_dsn, service="shop")
    with (
        ThreadPoolExecutor(1) as threads,
        psycopg.connect(bus_dsn, autocommit=True) as sql,
        psycopg.connect(bus_dsn) as gate,
    ):
        bus.publish("a", {})
        gate.execute("lock table pgbus.routing")
        publishing = threads.submit(bus.publish, "a", {})
        eventually(lambda: _sessions(sql, "and wait_event_type = 'Lock'") == 1)
        bus.close()
        gate.rollback()
        publishing.result()
        eventually(lambda: _sessions(sql) == 0)


def test_who_is_interrupted_keeps_no_connection(
    publisher: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(connection: PooledConnection) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patching:
        patching.setattr(PooledConnection, "check_socket", interrupt)
        for _ in range(POOL_SIZE):
            with pytest.raises(KeyboardInterrupt):
                publisher.publish("a", {})
    publisher.publish("a", {})


def _publishes(bus: Bus) -> bool:
    with suppress(StoreError):
        bus.publish("a", {})
        return True
    return False


def _sessions(sql: "psycopg.Connection[tuple[int]]", condition: str = "") -> int:
    found = sql.execute(
        "select count(*) from pg_stat_activity where application_name = 'pgbus shop' "
        f"and datname = current_database() {condition}".encode()
    ).fetchone()
    assert found is not None
    return found[0]


def _end_sessions(sql: "psycopg.Connection[tuple[int]]") -> None:
    sql.execute(
        "select pg_terminate_backend(pid, 10000) from pg_stat_activity "
        "where application_name = 'pgbus shop' and datname = current_database()"
    )

"""Transactions of handlers that were given up: they keep nobody waiting for what they locked."""

import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pgbus import BatchContext, Bus, Context, Event, Retry
from tests.waiting import eventually

Connection = psycopg.Connection[Any]


class Created(Event, topic="orders.created", key="order"):
    order: str


@pytest.fixture
def sql(bus_dsn: str) -> Iterator[Connection]:
    """A connection that waits for no lock for long, and a row to lock."""
    with psycopg.connect(bus_dsn, autocommit=True) as connection:
        connection.execute("set lock_timeout = '5 s'")
        connection.execute("create table stock (left_over text[])")
        connection.execute("insert into stock values ('{}')")
        yield connection


@pytest.fixture
def go_on() -> Iterator[threading.Event]:
    go_on = threading.Event()
    yield go_on
    go_on.set()


def update(connection: Connection, text: str) -> None:
    connection.execute("update stock set left_over = left_over || %s", ([text],))


def left_over(sql: Connection) -> Any:
    [(texts,)] = sql.execute("select left_over from stock").fetchall()
    return texts


@pytest.mark.parametrize("batch", [False, True], ids=["one by one", "batches"])
@pytest.mark.parametrize("where", ["outside", "in a statement", "in a loop"])
def test_the_next_attempt_gets_what_one_that_hangs_had_locked(
    bus: Bus,
    sql: Connection,
    go_on: threading.Event,
    caplog: pytest.LogCaptureFixture,
    where: str,
    *,
    batch: bool,
) -> None:
    attempts: list[int] = []
    retry = Retry(max_attempts=3, initial=0.01)
    subscribe = bus.subscribe("orders.*", name="billing", timeout=60, retry=retry)

    def work(connection: Connection, context: Context | BatchContext) -> None:
        attempts.append(len(attempts) + 1)
        attempt = attempts[-1]
        update(connection, f"attempt {attempt}")
        if attempt > 1:
            return
        context.extend(0.5)
        if where == "in a statement":
            connection.execute("select pg_sleep(60)")
        while where == "in a loop" and not go_on.is_set():
            connection.execute("select 1")
        go_on.wait(30)

    if batch:

        @subscribe
        def on_orders(events: list[Created], connection: Connection, context: BatchContext) -> None:
            work(connection, context)

    else:

        @subscribe
        def on_order(event: Created, connection: Connection, context: Context) -> None:
            work(connection, context)

    with bus.running():
        bus.publish(Created(order="a"))
        assert bus.wait_idle(20)
        assert not go_on.is_set()
        assert left_over(sql) == ["attempt 2"]
        eventually(lambda: "pgbus-billing-9" in {one.name for one in threading.enumerate()})
        stuck = [one for one in threading.enumerate() if one.name.startswith("pgbus-billing-")]
        assert len(stuck) in (8, 9)
        go_on.set()
        eventually(lambda: sum(one.is_alive() for one in stuck) == 8)
    assert left_over(sql) == ["attempt 2"]
    assert attempts == [1, 2]
    assert list(bus.dead_letters("billing")) == []
    assert "waits for the database" not in caplog.text


@pytest.mark.parametrize("where", ["outside", "in a statement"])
def test_after_a_stop_nothing_is_locked_by_a_handler_that_outlasted_it(
    bus: Bus, sql: Connection, go_on: threading.Event, where: str
) -> None:
    begun = threading.Event()

    @bus.subscribe("orders.*", name="billing", concurrency=1)
    def on_order(event: Created, connection: Connection) -> None:
        update(connection, "handler")
        begun.set()
        if where == "in a statement":
            connection.execute("select pg_sleep(60)")
        go_on.wait(30)

    with bus.running(0.0):
        bus.publish(Created(order="a"))
        assert begun.wait(20)
    assert not go_on.is_set()
    update(sql, "another")
    assert left_over(sql) == ["another"]
    assert bus.status()[0].ready == 1

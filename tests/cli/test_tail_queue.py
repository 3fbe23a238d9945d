"""The temporary queue behind ``pgbus tail``: nobody's, and gone with its session."""

import secrets
from collections.abc import Callable, Iterator

import psycopg
import pytest

from pgbus import Bus, InvalidName, Outgoing, Unroutable
from pgbus.model.names import check_name
from pgbus.store import tail, workers
from pgbus.store.query import run
from tests.waiting import eventually


@pytest.fixture
def connection(bus_dsn: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(bus_dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def watcher(bus_dsn: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(bus_dsn, autocommit=True) as connection:
        yield connection


def tail_queues(connection: psycopg.Connection) -> list[str]:
    rows = connection.execute(
        "select relname from pg_class where relkind = 'r' and relname like 'q_pgbus_tail%'"
    )
    return [row[0] for row in rows]


def begin(connection: psycopg.Connection, *patterns: str) -> int:
    number = secrets.randbits(32) - 2**31
    with connection.transaction():
        run(connection, tail.start(number, patterns))
    return number


def test_it_shows_what_it_matches_once_and_in_order(bus: Bus, watcher: psycopg.Connection) -> None:
    number = begin(watcher, "orders.*", "orders.paid")
    bus.publish_many([Outgoing("orders.paid", {"n": n}, key="k") for n in range(3)])
    bus.publish("invoices.sent", {})
    bus.publish_many([Outgoing("orders.new", 4), Outgoing("invoices.sent", 5)])
    seen = run(watcher, tail.read(number, 3))
    assert [event.body for event in seen] == ['{"n": 0}', '{"n": 1}', '{"n": 2}']
    assert [event.body for event in run(watcher, tail.read(number, 3))] == ["4"]
    assert run(watcher, tail.read(number, 3)) == []


def test_it_counts_in_nobodys_receipt(bus: Bus, watcher: psycopg.Connection) -> None:
    @bus.subscribe("orders.*", name="billing")
    def handle(event: dict[str, int]) -> None: ...

    bus.declare()
    begin(watcher, "#")
    assert bus.publish("orders.paid", {}).queues == 1
    assert bus.publish("nobody.cares", {}).queues == 0
    assert bus.publish("nobody.cares", {}).queues == 0  # from memory now


def test_it_makes_nothing_routable(
    make_bus: Callable[..., Bus], watcher: psycopg.Connection
) -> None:
    number = begin(watcher, "#")
    bus = make_bus(on_unroutable="raise")

    @bus.subscribe("orders.*", name="billing")
    def handle(event: dict[str, int]) -> None: ...

    bus.declare()
    for _ in range(2):
        with pytest.raises(Unroutable, match=r"matches nobody\.cares;"):
            bus.publish_many([Outgoing("orders.paid", {}), Outgoing("nobody.cares", {})])
    assert run(watcher, tail.read(number, 10)) == []
    assert bus.publish("orders.paid", {}).queues == 1


def test_it_shows_a_delayed_event_when_it_falls_due(
    bus: Bus, watcher: psycopg.Connection, connection: psycopg.Connection
) -> None:
    number = begin(watcher, "#")
    bus.publish("orders.paid", 1, delay=0.01)
    eventually(lambda: connection.execute("select pgbus.promote(10)").fetchone() == (1,))
    assert [event.body for event in run(watcher, tail.read(number, 3))] == ["1"]


def test_it_goes_with_its_session(bus: Bus, bus_dsn: str, connection: psycopg.Connection) -> None:
    with psycopg.connect(bus_dsn, autocommit=True) as lost:
        begin(lost, "#")
        run(connection, workers.reap())
        assert len(tail_queues(connection)) == 1  # it lives
    eventually(lambda: run(connection, workers.reap()) or not tail_queues(connection))
    assert connection.execute("select count(*) from pgmq.topic_bindings").fetchone() == (0,)
    assert connection.execute("select count(*) from pgbus.tail").fetchone() == (0,)
    assert bus.publish("orders.paid", {}).queues == 0


def test_the_queue_of_a_dead_session_does_not_grow(
    bus: Bus, bus_dsn: str, connection: psycopg.Connection
) -> None:
    with psycopg.connect(bus_dsn, autocommit=True) as lost:
        begin(lost, "#")
        pid = lost.info.backend_pid
        bus.publish("orders.paid", {})
    gone = "select count(*) from pg_stat_activity where pid = %s"
    eventually(lambda: connection.execute(gone, [pid]).fetchone() == (0,))
    bus.publish("orders.paid", {})
    (queue,) = tail_queues(connection)
    text = psycopg.sql.SQL("select count(*) from pgmq.{}").format(psycopg.sql.Identifier(queue))
    assert connection.execute(text).fetchone() == (1,)


def test_dropping_it_waits_for_no_publisher_and_holds_none_up(
    bus: Bus, bus_dsn: str, connection: psycopg.Connection, watcher: psycopg.Connection
) -> None:
    @bus.subscribe("#", name="billing")
    def handle(event: dict[str, int]) -> None: ...

    bus.declare()
    number = begin(watcher, "#")
    with psycopg.connect(bus_dsn) as slow:
        bus.publish("orders.paid", {}, connection=slow)
        run(watcher, tail.stop(number))
        assert run(connection, tail.sweep()) == [number]
        assert bus.publish("orders.paid", {}).queues == 1
        assert len(tail_queues(connection)) == 1
    assert run(connection, tail.sweep()) == []
    assert tail_queues(connection) == []


def test_a_queue_that_vanishes_does_not_disturb_a_publisher(
    bus: Bus, bus_dsn: str, connection: psycopg.Connection, watcher: psycopg.Connection
) -> None:
    number = begin(watcher, "#")
    with psycopg.connect(bus_dsn) as old:
        old.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        old.execute("select 1")  # its snapshot still has the tail's bindings
        run(watcher, tail.stop(number))
        run(connection, tail.sweep())
        assert bus.publish("orders.paid", {}, connection=old).queues == 0


def test_no_subscription_is_called_so() -> None:
    with pytest.raises(InvalidName, match="pgbus tail"):
        check_name("pgbus_tail_x")
    check_name("pgbus_tails")

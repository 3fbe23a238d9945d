"""The transaction of a handler: what handlers do to it, and what becomes of their events."""

from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from pgbus import Bus, Context, Incident, Retry
from tests.threads.test_delivery import Created
from tests.waiting import eventually

Connection = psycopg.Connection[Any]


@pytest.mark.parametrize("words", ["commit", "rollback"])
def test_a_transactional_handler_must_not_end_its_transaction(bus: Bus, words: str) -> None:
    @bus.subscribe("orders.*", name="billing", retry=Retry(max_attempts=1))
    def on_order(event: Created, connection: Connection) -> None:
        if event.n:
            connection.execute(words)
        else:
            getattr(connection, words)()

    with bus.running():
        bus.publish_many([Created(order="a", n=0), Created(order="b", n=1)])
        assert bus.wait_idle(10)
    assert len(list(bus.dead_letters("billing"))) == 2


def test_a_transactional_handler_that_rolls_back_has_failed(bus: Bus) -> None:
    attempts: list[int] = []

    @bus.subscribe("orders.*", name="billing", retry=Retry(max_attempts=2, initial=0.01))
    def on_order(event: Created, connection: Connection, context: Context) -> None:
        attempts.append(context.attempt)
        raise psycopg.Rollback

    with bus.running():
        bus.publish(Created(order="a"))
        assert bus.wait_idle(10)
    assert attempts == [1, 2]
    assert len(list(bus.dead_letters("billing"))) == 1


def test_no_transaction_stays_open_where_no_event_follows(bus: Bus, bus_dsn: str) -> None:
    """Though the end of one begins the next, for the event behind it in its key."""
    transactions: list[tuple[int, int]] = []

    @bus.subscribe("orders.*", name="billing", concurrency=1)
    def on_order(event: Created, connection: Connection) -> None:
        [(number,)] = connection.execute("select pg_current_xact_id()::text::bigint").fetchall()
        transactions.append((event.n, number))

    bus.declare()
    bus.publish_many([Created(order="a", n=n) for n in range(3)])
    bus.publish("orders.created", {"no": "order"}, key="a")
    with bus.running(), psycopg.connect(bus_dsn, autocommit=True) as watcher:
        assert bus.wait_idle(10)
        eventually(lambda: _open_transactions(watcher) == 0)
        bus.publish(Created(order="a", n=3))
        assert bus.wait_idle(10)
    assert [n for n, _ in transactions] == [0, 1, 2, 3]
    assert len({number for _, number in transactions}) == 4
    assert len(list(bus.dead_letters("billing"))) == 1


def _open_transactions(watcher: "psycopg.Connection[tuple[Any, ...]]") -> int:
    [(count,)] = watcher.execute(
        "select count(*) from pg_stat_activity where datname = current_database() "
        "and application_name like 'pgbus/%' and state like 'idle in transaction%'"
    ).fetchall()
    return int(count)


class Refusing(psycopg.Cursor[Any]):
    """A cursor of the user's own that lets nothing be rolled back."""

    def execute(self, query: Any, *arguments: Any, **options: Any) -> Any:
        if "rollback" in str(query):
            raise RuntimeError("not with me")
        return super().execute(query, *arguments, **options)


def _read_nothing(cursor: psycopg.Cursor[Any]) -> Any:
    raise TypeError("no row of mine")


@pytest.mark.parametrize("own", ["cursor", "rows"])
def test_what_a_handler_sets_on_its_connection_keeps_nothing_from_being_rolled_back(
    bus: Bus, bus_dsn: str, own: str
) -> None:
    """Nor does it end a worker's thread: the key's last event ends a transaction begun for it."""

    @bus.subscribe("orders.*", name="billing", concurrency=1, retry=Retry(max_attempts=1))
    def on_order(event: Created, connection: Connection) -> None:
        with connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute("insert into effect values (%s)", (event.n,))
        if own == "cursor":
            connection.cursor_factory = Refusing
        else:
            connection.row_factory = _read_nothing
        if event.n == 2:
            raise RuntimeError("after the write")

    with psycopg.connect(bus_dsn, autocommit=True) as sql:
        sql.execute("create table effect (n integer)")
        bus.declare()
        bus.publish_many([Created(order="a", n=n) for n in range(5)])
        bus.publish("orders.created", {"no": "order"}, key="a")
        with bus.running():
            assert bus.wait_idle(10)
            bus.publish(Created(order="a", n=5))
            assert bus.wait_idle(10)
        assert sql.execute("select n from effect").fetchall() == [(0,), (1,), (3,), (4,), (5,)]
    assert len(list(bus.dead_letters("billing"))) == 2


@pytest.mark.parametrize("how", ["stream", "copy", "close"])
@pytest.mark.parametrize("raises", [False, True])
def test_a_connection_that_a_handler_leaves_in_disorder_is_its_failure(
    bus: Bus, bus_dsn: str, how: str, *, raises: bool
) -> None:
    left: list[Any] = []

    @bus.subscribe("orders.*", name="billing", concurrency=1, retry=Retry(max_attempts=1))
    def on_order(event: Created, connection: Connection) -> None:
        connection.execute("insert into effect values (%s)", (event.n,))
        if event.n:
            return
        if how == "stream":
            rows = connection.cursor().stream("select generate_series(1, 1000)")
            left.append((rows, next(rows)))
        elif how == "copy":
            copy = connection.cursor().copy("copy effect from stdin")
            left.append((copy, copy.__enter__()))
        else:
            connection.close()
        if raises:
            raise RuntimeError("once")

    with psycopg.connect(bus_dsn, autocommit=True) as sql:
        sql.execute("create table effect (n integer)")
        with bus.running():
            bus.publish_many([Created(order="a", n=n) for n in range(2)])
            assert bus.wait_idle(10)
        assert sql.execute("select n from effect").fetchall() == [(1,)]
    assert len(list(bus.dead_letters("billing"))) == 1
    left.clear()


def test_a_commit_that_was_cancelled_is_no_failure(bus: Bus, bus_dsn: str) -> None:
    """It may have been committed, or, as here, not: a deferred trigger runs within it."""
    told: list[Incident] = []
    bus.on_error(told.append)

    @bus.subscribe("orders.*", name="billing", concurrency=1, retry=Retry(max_attempts=1))
    def on_order(event: Created, connection: Connection) -> None:
        connection.execute("insert into effect values (%s)", (event.n,))

    with psycopg.connect(bus_dsn, autocommit=True) as sql, psycopg.connect(bus_dsn) as gate:
        sql.execute(
            "create table effect (n integer); create table gate (); "
            "create function wait() returns trigger language plpgsql as "
            "$$ begin perform from gate; return null; end $$; "
            "create constraint trigger wait after insert on effect deferrable initially deferred "
            "for each row execute function wait()"
        )
        gate.execute("lock table gate")
        with bus.running():
            bus.publish_many([Created(order="a", n=n) for n in range(2)])
            eventually(lambda: _cancel_commits(sql) == 1)
            gate.rollback()
            assert bus.wait_idle(10)
        assert sql.execute("select n from effect").fetchall() == [(0,), (1,)]
    assert told == []
    assert list(bus.dead_letters("billing")) == []


def _cancel_commits(sql: "psycopg.Connection[tuple[Any, ...]]") -> int:
    return len(
        sql.execute(
            "select pg_cancel_backend(pid) from pg_stat_activity where wait_event_type = 'Lock' "
            "and application_name like 'pgbus/%' and query like '%commit%'"
        ).fetchall()
    )


def test_a_session_that_turned_read_only_is_given_up(bus: Bus, bus_dsn: str) -> None:
    """As after a failover: that says nothing about the event."""
    sessions: list[int] = []

    @bus.subscribe("orders.*", name="billing", concurrency=1, retry=Retry(max_attempts=1))
    def on_order(event: Created, connection: Connection) -> None:
        sessions.append(connection.info.backend_pid)
        if len(sessions) == 1:
            connection.execute("set transaction read only")
        connection.execute("insert into effect values (%s)", (event.n,))

    with psycopg.connect(bus_dsn, autocommit=True) as sql:
        sql.execute("create table effect (n integer)")
        with bus.running():
            bus.publish(Created(order="a", n=1))
            assert bus.wait_idle(10)
        assert sql.execute("select n from effect").fetchall() == [(1,)]
    assert len(set(sessions)) == 2
    assert list(bus.dead_letters("billing")) == []

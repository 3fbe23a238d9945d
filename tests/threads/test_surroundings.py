"""What goes on around a bus: wrong clocks, floods of wake-ups, old snapshots, missing queues."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from pgbus import Bus, Context, Event, Outgoing, StoreError
from pgbus.store import query
from pgbus.threads import keeper, subscription
from tests.waiting import eventually

HOUR = 3600.0


class Step(Event, topic="steps", key="key"):
    n: int
    key: str = "k"


@pytest.fixture
def sql(bus_dsn: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(bus_dsn, autocommit=True) as connection:
        yield connection


def one(sql: psycopg.Connection[Any], statement: str) -> Any:
    row = sql.execute(statement.encode()).fetchone()
    assert row is not None
    return row[0]


@pytest.mark.parametrize("wrong", [-HOUR, HOUR], ids=["slow", "fast"])
def test_leases_and_delays_go_by_the_servers_clock(
    make_bus: Callable[..., Bus],
    sql: psycopg.Connection[Any],
    monkeypatch: pytest.MonkeyPatch,
    wrong: float,
) -> None:
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + wrong)
    bus = make_bus(lease=5.0)
    seen: list[int] = []

    @bus.subscribe("steps", name="billing")
    def handle(step: Step) -> None:
        seen.append(step.n)

    with bus.running():
        bus.publish(Step(n=2), delay=0.3)
        bus.publish(Step(n=1))
        due = one(sql, "select max(due_at) - clock_timestamp() < '1 s' from pgbus.scheduled")
        assert due is None or due is True
        left = one(
            sql, "select extract(epoch from expires_at - clock_timestamp()) from pgbus.worker"
        )
        assert 0 < left <= 5
        # One that fell silent by the server's clock is found, and we are not.
        sql.execute(
            "insert into pgbus.worker (id, service, host, pid, lease, expires_at) "
            "values (1, 'x', 'x', 1, '0', clock_timestamp() - interval '1 minute')"
        )
        eventually(lambda: one(sql, "select dead_at is not null from pgbus.worker where id = 1"))
        eventually(lambda: sorted(seen) == [1, 2])
        assert one(sql, "select count(*) from pgbus.worker where dead_at is null") == 1


FORGED = 10_000
ONE_BY_ONE = 2_000


def test_forged_notifications_only_wake_and_not_often(
    bus: Bus, sql: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    asked: list[bytes] = []
    execute = query._execute

    def counted(connection: Any, one: Any, cursor: Any) -> Any:
        asked.append(one.text)
        return execute(connection, one, cursor)

    @bus.subscribe("steps", name="billing")
    def handle(step: Step) -> None:
        seen.append(step.n)

    with bus.running():
        bus.publish(Step(n=0))
        eventually(lambda: seen == [0])
        monkeypatch.setattr(query, "_execute", counted)
        since = time.monotonic()
        for channel in ("pgbus", "pgbus_billing", "pgbus_other"):
            sql.execute(
                "select pg_notify(%s, 'drop table ' || n) from generate_series(1, %s) n",
                (channel, FORGED),
            )
        for channel in ("pgbus_billing", "pgbus") * (ONE_BY_ONE // 2):
            sql.execute("select pg_notify(%s, '')", (channel,))
        bus.publish(Step(n=1))
        eventually(lambda: seen == [0, 1])
        bus.publish(Step(n=2))
        eventually(lambda: seen == [0, 1, 2])
        took = time.monotonic() - since
    # At one look or poll a nap, and those that the two events cost.
    assert len(asked) < 50 + 2 * took / subscription.NAP


def test_a_snapshot_that_stays_open_loses_nothing(
    bus: Bus, bus_dsn: str, sql: psycopg.Connection[Any]
) -> None:
    """What was deleted stays in the tables meanwhile, and in the way of every look."""
    seen: list[int] = []

    @bus.subscribe("steps", name="billing", concurrency=2)
    def handle(step: Step) -> None:
        seen.append(step.n)

    bus.declare()
    with psycopg.connect(bus_dsn) as old, bus.running():
        old.execute("set transaction isolation level repeatable read")
        assert old.execute("select count(*) from pgmq.q_billing").fetchone() == (0,)
        for first in range(0, 2_000, 200):
            bus.publish_many([Step(n=n) for n in range(first, first + 200)])
            assert bus.wait_idle(20)
            sql.execute("vacuum pgmq.q_billing")
        # It does keep what was deleted, and sees none of what came.
        assert one(sql, "select pg_relation_size('pgmq.q_billing')") > 2_000 * 100
        assert old.execute("select count(*) from pgmq.q_billing").fetchone() == (0,)
    assert seen == list(range(2_000))


def test_a_snapshot_that_stays_open_is_warned_of_once(
    make_bus: Callable[..., Bus],
    bus_dsn: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(keeper, "HOUSEKEEPING", 0.0)
    monkeypatch.setattr(keeper, "OLD", 0.1)
    bus = make_bus(lease=0.6)
    bus.subscribe("steps", name="billing")(lambda event: None)
    with psycopg.connect(bus_dsn, application_name="a report") as old:
        old.execute("set transaction isolation level repeatable read")
        old.execute("select 1")
        with bus.running():  # whose own transactions are younger
            eventually(lambda: "a transaction of 'a report'" in caplog.text)
            threading.Event().wait(0.6)  # three rounds more
    assert caplog.text.count("a transaction of") == 1


def test_transactions_that_publish_in_opposite_orders_do_not_deadlock(
    bus: Bus, bus_dsn: str
) -> None:
    handled: list[str] = []
    failures: list[BaseException] = []
    meeting = threading.Barrier(2)

    def handle(event: Any, context: Context) -> None:
        handled.append(context.subscription)

    for name in ("one", "two"):
        bus.subscribe(f"{name}.*", name=name)(handle)

    def publish(topics: list[str]) -> None:
        try:
            with psycopg.connect(bus_dsn) as connection:
                for _ in range(20):
                    for topic in topics:
                        meeting.wait(20)
                        bus.publish(topic, 1, key="k", connection=connection)
                    connection.commit()
        except BaseException as error:
            failures.append(error)
            meeting.abort()

    with bus.running():  # asleep, so that each of them has to wake it
        topics = ["one.a", "two.a"]
        threads = [
            threading.Thread(target=publish, args=(some,)) for some in (topics, topics[::-1])
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert bus.wait_idle(20)
    assert Counter(handled) == {"one": 40, "two": 40}


def test_a_binding_to_a_queue_that_is_gone_is_a_clear_error(
    bus: Bus, sql: psycopg.Connection[Any]
) -> None:
    seen: list[int] = []

    @bus.subscribe("steps", name="billing")
    def handle(step: Step) -> None:
        seen.append(step.n)

    with bus.running():
        bus.publish(Step(n=1))
        sql.execute("select pgmq.create('ghost')")
        sql.execute("select pgmq.bind_topic('steps', 'ghost')")
        sql.execute("drop table pgmq.q_ghost")
        with pytest.raises(StoreError, match="dropped"):
            bus.publish(Step(n=2))
        with pytest.raises(StoreError, match="dropped"):
            bus.publish_many([Outgoing("steps", {"n": 3}), Step(n=4)])
        sql.execute("select pgmq.unbind_topic('steps', 'ghost')")
        bus.publish(Step(n=5))
        assert bus.wait_idle()
    # All or none: without the queue that is gone, the others did not get it, either.
    assert seen == [1, 5]

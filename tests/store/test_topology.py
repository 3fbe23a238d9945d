"""Subscriptions: declared by many at once, changed, adopted, dropped."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pgbus import Bus, ConfigurationError, StoreError
from pgbus.store import topology
from pgbus.store.query import run
from tests.store.catalog import content, snapshot
from tests.store.queue import Connection, Queue, wait_until_blocked
from tests.store.worker import Worker, ids

MakeBus = Callable[..., Bus]
PRIVATE = ("subscription", "binding", "lease", "attempt", "scheduled", "worker_subscription")


def subscribe(bus: Bus, name: str, *patterns: str, **settings: Any) -> list[Any]:
    """Subscribe a handler; return the list that it fills."""
    seen: list[Any] = []

    @bus.subscribe(*patterns, name=name, **settings)
    def on_event(event: Any) -> None:
        seen.append(event)

    return seen


def test_twenty_declare_the_same_and_overlapping_subscriptions_at_once(
    make_bus: MakeBus, bus: Bus, connection: Connection, aside: ThreadPoolExecutor
) -> None:
    names = ["billing", "shipping", "audit", "ledger"]
    together = threading.Barrier(20, timeout=30)

    def declare(number: int) -> None:
        mine = make_bus()
        for turn in range(1 + number % 4):
            name = names[(number + turn) % 4]
            subscribe(mine, name, f"{name}.#", f"own.n{number}")
        together.wait()
        mine.declare()

    for future in [aside.submit(declare, number) for number in range(20)]:
        future.result()
    assert [one.name for one in bus.status()] == sorted(names)
    for name in names:
        assert bus.publish(f"{name}.created.now", 1).queues == 1
    bound = [(one.queue, one.pattern) for one in bus.bindings() if one.ours]
    assert len(bound) == len(set(bound))
    for number in range(20):
        assert bus.publish(f"own.n{number}", 1).queues == 1 + number % 4


def test_bodies_are_compressed_by_lz4_where_the_server_has_it(
    bus: Bus, connection: Connection
) -> None:
    [can] = connection.execute(
        "select 'lz4' = any (enumvals) from pg_settings where name = 'default_toast_compression'"
    ).fetchone() or [None]
    subscribe(bus, "billing", "orders.*")
    bus.declare()
    bus.publish("orders.created", {"lines": "some of it is like the rest " * 1000})
    query = "select pg_column_compression(message) from pgmq.q_billing"
    assert connection.execute(query).fetchone() == ("lz4" if can else "pglz",)


def test_ten_processes_start_at_once_and_share_the_events(
    make_bus: MakeBus, bus: Bus, aside: ThreadPoolExecutor
) -> None:
    together = threading.Barrier(10, timeout=30)
    buses = [make_bus() for _ in range(10)]
    seen = [subscribe(one, "billing", "orders.#", concurrency=1) for one in buses]

    def start(one: Bus) -> None:
        together.wait()
        one.start()

    for future in [aside.submit(start, one) for one in buses]:
        future.result()
    assert [one.workers for one in bus.status()] == [10]
    for n in range(100):
        assert bus.publish("orders.created", n).queues == 1
    assert buses[0].wait_idle()
    assert sorted(n for events in seen for n in events) == list(range(100))


@pytest.mark.parametrize("ordered", [True, False])
def test_ordered_cannot_be_changed_under_a_running_worker(make_bus: MakeBus, ordered: bool) -> None:
    old, new = make_bus(), make_bus()
    subscribe(old, "billing", "orders.*", ordered=ordered)
    seen = subscribe(new, "billing", "orders.*", ordered=not ordered)
    with old.running():
        for action in (new.declare, new.start):
            with pytest.raises(StoreError, match=rf"(?i)ordered={str(ordered)[0]}.*stop it first"):
                action()
        assert [one.workers for one in old.status()] == [1]
    for n in range(10):
        old.publish("orders.created", n, key="k")
    with new.running():
        assert new.wait_idle()
    assert sorted(seen) == list(range(10))
    if not ordered:
        assert seen == list(range(10))


def test_ordered_can_be_changed_after_a_worker_died(connection: Connection, queue: Queue) -> None:
    queue.send("k", "k")
    victim = Worker(connection, queue)
    victim.take(victim.wish(quantity=1))
    victim.expire()
    changed = Queue(connection, ordered=False)
    assert changed.number == queue.number
    heir = Worker(connection, changed)
    chunks = heir.take().chunks
    assert sorted((chunk.messages[0].msg_id, chunk.suspect) for chunk in chunks) == [
        (1, True),
        (2, False),
    ]


def test_nobody_begins_while_ordered_is_changed(
    connection: Connection, another: Callable[[], Connection], aside: ThreadPoolExecutor
) -> None:
    """It would take by the old functions what another takes by the new: one event in two hands."""
    queue = Queue(connection, ordered=False)
    publisher, changer, beginner = another(), another(), another()
    with publisher.transaction():
        publisher.execute("lock table pgmq.q_billing in row exclusive mode")
        changing = aside.submit(Queue, changer)  # makes the index of lanes
        wait_until_blocked(connection, changer)
        beginning = aside.submit(Worker, beginner, queue)
        wait_until_blocked(connection, beginner)
    changing.result(10)
    queue.send("k", "k")
    assert len(beginning.result(10).take().chunks) == 1


def test_park_can_be_changed_at_any_time(connection: Connection, queue: Queue) -> None:
    queue.send("k")
    connection.execute(
        "select pgmq.send('billing_dlq', '1'::jsonb, jsonb_build_object('pgbus-dead', "
        "jsonb_build_object('msg_id', 0, 'lane', %s)))",
        (queue.lane("k"),),
    )
    worker = Worker(connection, queue)
    run(connection, topology.declare("billing", ordered=True, park=True))
    assert worker.take().chunks == []
    run(connection, topology.declare("billing", ordered=True, park=False))
    assert ids(worker.take()) == [[1]]


@pytest.mark.parametrize("kind", ["create", "create_unlogged"])
def test_a_queue_of_pgmq_is_adopted_with_what_it_holds(connection: Connection, kind: str) -> None:
    connection.execute(f"select pgmq.{kind}('billing')")
    connection.execute("select pgmq.create('billing_dlq')")
    for body in ("1", "2"):
        connection.execute("select pgmq.send('billing', %s::jsonb)", (body,))
    connection.execute("select pgmq.send('billing_dlq', '0'::jsonb)")
    oids = "select oid::integer from pg_class where relname ~ '^q_billing(_dlq)?$' order by 1"
    before = connection.execute(oids.encode()).fetchall()
    queue = Queue(connection)
    assert connection.execute(oids.encode()).fetchall() == before
    queue.send("k")
    worker = Worker(connection, queue)
    assert ids(worker.take()) == [[1], [2], [3]]
    assert [one.dead_letters for one in run(connection, topology.status(None))] == [1]


def test_a_queue_is_adopted_while_somebody_reads_it(
    connection: Connection, another: Callable[[], Connection]
) -> None:
    connection.execute("select pgmq.create('billing')")
    reader = another()
    with reader.transaction():
        reader.execute("select from pgmq.q_billing")
        Queue(connection)  # it would wait for ten seconds, and whoever comes later behind it


def test_declaring_again_changes_nothing(connection: Connection, queue: Queue) -> None:
    dsn = connection.info.dsn
    queue.send("k")
    worker = Worker(connection, queue)
    worker.take()
    before = snapshot(dsn), content(dsn, "pgbus.subscription", "pgbus.lease", "pgmq.meta")
    assert Queue(connection).number == queue.number
    assert (
        snapshot(dsn),
        content(dsn, "pgbus.subscription", "pgbus.lease", "pgmq.meta"),
    ) == before


def test_dropping_with_force_leaves_no_trace(bus: Bus, connection: Connection) -> None:
    dsn = connection.info.dsn
    before = snapshot(dsn)
    subscribe(bus, "billing", "orders.#", on_exhausted="park")
    bus.declare()
    queue = Queue(connection, park=True)
    for delay in (0, 0, 3600):
        bus.publish("orders.created", 1, key="k", delay=delay)
    worker = Worker(connection, queue)
    worker.take()
    worker.die()
    with pytest.raises(ConfigurationError, match="still holds 3 events and 0 dead letters"):
        bus.drop_subscription("billing")
    assert bus.publish("orders.created", 1).queues == 1
    bus.drop_subscription("billing", force=True)
    after = snapshot(dsn)
    # But for what tells publishers who still remember it: its number is never used again.
    [tombstone] = set(after["function"]) - set(before["function"])
    assert f"pgbus.put_{queue.number}(" in tombstone
    after["function"].remove(tombstone)
    assert after == before
    left = content(dsn, *(f"pgbus.{table}" for table in PRIVATE if table != "scheduled"))
    assert not any(left.values())
    assert "billing" not in str(content(dsn, "pgbus.scheduled", "pgmq.meta"))
    assert bus.publish("orders.created", 1).queues == 0
    with pytest.raises(ConfigurationError, match="no subscription 'billing'"):
        bus.drop_subscription("billing")


@pytest.mark.parametrize("what", ["event", "letter", "scheduled"])
def test_whatever_a_subscription_holds_keeps_it_from_being_dropped(
    bus: Bus, connection: Connection, queue: Queue, what: str
) -> None:
    if what == "event":
        queue.send("k")
    elif what == "letter":
        connection.execute("select pgmq.send('billing_dlq', '1'::jsonb)")
    else:
        connection.execute(
            "insert into pgbus.scheduled (due_at, queues, body, headers) "
            "values ('2999-12-31', '{other,billing}', '1', '{}')"
        )
    before = snapshot(connection.info.dsn)
    with pytest.raises(ConfigurationError, match="handle them first, or drop it with force"):
        bus.drop_subscription("billing")
    assert snapshot(connection.info.dsn) == before
    bus.drop_subscription("billing", force=True)


def test_dropping_and_renaming_are_refused_under_a_running_worker(
    make_bus: MakeBus, bus: Bus, connection: Connection
) -> None:
    running = make_bus()
    seen = subscribe(running, "billing", "orders.*")
    with running.running():
        before = snapshot(connection.info.dsn)
        with pytest.raises(StoreError, match=r"in use by a running worker.*stop it first"):
            bus.drop_subscription("billing", force=True)
        with pytest.raises(StoreError, match=r"in use by a running worker.*stop it first"):
            bus.rename_subscription("billing", "invoicing")
        assert snapshot(connection.info.dsn) == before
        bus.publish("orders.created", 1)
        assert running.wait_idle()
    assert seen == [1]
    bus.drop_subscription("billing")

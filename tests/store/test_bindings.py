"""Which bindings a start removes, and which it must not."""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pgbus import Bus
from pgbus.store import topology
from pgbus.store.query import run
from tests.store.queue import Connection, Queue
from tests.store.worker import Worker
from tests.waiting import eventually

MakeBus = Callable[..., Bus]


def serving(bus: Bus, *patterns: str) -> Bus:
    @bus.subscribe(*patterns, name="billing")
    def on_event(event: Any) -> None: ...

    return bus


def bound(connection: Connection, queue: str = "billing") -> set[str]:
    return {one.pattern for one in run(connection, topology.bindings()) if one.queue == queue}


def generation(connection: Connection) -> object:
    return connection.execute("select generation from pgbus.routing").fetchone()


def test_a_start_removes_what_nobody_declares_any_more_and_says_so(
    make_bus: MakeBus, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(make_bus(), "orders.*", "legacy.#").running():
        assert bound(connection) == {"orders.*", "legacy", "legacy.#"}
    caplog.clear()
    new = serving(make_bus(), "orders.*")
    new.declare()
    assert bound(connection) == {"orders.*", "legacy", "legacy.#"}
    with new.running():
        assert bound(connection) == {"orders.*"}
        assert new.publish("legacy.created", 1).queues == 0
    warnings = {one.getMessage() for one in caplog.records if one.levelno == logging.WARNING}
    assert warnings == {
        "removed binding legacy of billing",
        "removed binding legacy.# of billing",
    }


def test_foreign_bindings_and_those_of_other_subscriptions_stay(
    make_bus: MakeBus, connection: Connection, queue: Queue
) -> None:
    other = Queue(connection, "shipping")
    run(connection, topology.bind(other.number, ["shipped.*"], prune=False))
    connection.execute("select pgmq.create('reports')")
    for pattern, name in (("mine.*", "billing"), ("both.*", "billing"), ("all.*", "reports")):
        connection.execute("select pgmq.bind_topic(%s, %s)", (pattern, name))
    with serving(make_bus(), "orders.*", "both.*").running():
        assert bound(connection) == {"orders.*", "both.*", "mine.*"}
    with serving(make_bus(), "paid.*").running():
        # `both.*` was there before pgbus declared it, too.
        assert bound(connection) == {"paid.*", "both.*", "mine.*"}
    assert bound(connection, "shipping") == {"shipped.*"}
    assert bound(connection, "reports") == {"all.*"}


def test_prune_bindings_false_keeps_everything(
    make_bus: MakeBus, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    serving(make_bus(), "legacy.*").declare()
    with serving(make_bus(prune_bindings=False), "orders.*").running():
        assert bound(connection) == {"orders.*", "legacy.*"}
    assert "removed binding" not in caplog.text


def test_what_a_live_worker_declares_stays_and_goes_with_its_death(
    make_bus: MakeBus, connection: Connection, queue: Queue
) -> None:
    old = serving(make_bus(), "orders.*", "legacy.*")
    with old.running(), serving(make_bus(), "orders.*").running():
        assert bound(connection) == {"orders.*", "legacy.*"}
    serving(make_bus(), "legacy.*").declare()
    silent = Worker(connection, queue)
    connection.execute(
        "update pgbus.worker_subscription set patterns = '{legacy.*}' where worker = %s",
        (silent.id,),
    )
    with serving(make_bus(), "orders.*").running():
        assert bound(connection) == {"orders.*", "legacy.*"}
    silent.expire()
    # Nobody else runs who could have noticed that it fell silent.
    with serving(make_bus(), "orders.*").running():
        assert bound(connection) == {"orders.*"}


def test_a_restart_that_changes_nothing_writes_nothing(
    make_bus: MakeBus, connection: Connection
) -> None:
    """Every write to the bindings makes all publishers forget what they know of routes."""
    serving(make_bus(), "orders.*", "a.#.b").declare()
    before = generation(connection)
    with serving(make_bus(), "a.#.b", "orders.*").running():
        pass
    serving(make_bus(), "orders.*").declare()
    assert generation(connection) == before


def test_bindings_of_a_worker_that_is_just_starting_are_spared(
    make_bus: MakeBus,
    connection: Connection,
    another: Callable[[], Connection],
    aside: ThreadPoolExecutor,
) -> None:
    old, new = serving(make_bus(), "a", "b"), serving(make_bus(), "b", "c")
    watcher = another()

    def waiting() -> int:
        row = watcher.execute(
            "select count(*) from pg_stat_activity "
            "where datname = current_database() and wait_event_type = 'Lock'"
        ).fetchone()
        assert row is not None
        return int(row[0])

    with connection.transaction():
        # Reading is possible, registering is not.
        connection.execute("lock table pgbus.worker_subscription in share mode")
        starting = aside.submit(new.start)
        eventually(lambda: waiting() == 1)
        restarting = aside.submit(old.start)
        eventually(lambda: waiting() == 2)
    starting.result()
    restarting.result()
    assert bound(connection) == {"a", "b", "c"}


def test_a_worker_that_comes_back_from_the_dead_is_bound_again(
    make_bus: MakeBus, connection: Connection
) -> None:
    def alive() -> list[tuple[Any, ...]]:
        return connection.execute("select id from pgbus.worker where dead_at is null").fetchall()

    with serving(make_bus(lease=0.5), "a", "b").running():
        [before] = alive()
        with connection.transaction():
            # It stalls, is declared dead, and another version of the service starts.
            connection.execute("update pgbus.worker set dead_at = clock_timestamp()")
            number = run(connection, topology.declare("billing", ordered=True, park=False))
            assert run(connection, topology.bind(number, ["b", "c"], prune=True)) == ["a"]
        eventually(lambda: alive() not in ([], [before]))
        eventually(lambda: "a" in bound(connection))

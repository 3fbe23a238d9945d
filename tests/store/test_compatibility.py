"""Releases of pgbus against schemas of other releases."""

from collections.abc import Callable

import psycopg
import pytest

from pgbus import Bus, IncompatibleDatabase, StoreError
from pgbus.store.statements import Migration, migrations
from tests.store.catalog import snapshot
from tests.store.queue import Connection


def remember(connection: Connection, *, breaking: bool) -> None:
    """Let the database remember a migration of a release to come."""
    connection.execute(
        "insert into pgbus.migration (number, name, checksum, breaking) "
        "values (9001, 'partitions', 'unknown', %s)",
        (breaking,),
    )


def counting(bus: Bus) -> list[int]:
    handled: list[int] = []

    @bus.subscribe("orders.*", name="billing")
    def on_order(event: int) -> None:
        handled.append(event)

    return handled


def test_a_newer_schema_without_breaking_changes_works(bus: Bus, connection: Connection) -> None:
    handled = counting(bus)
    bus.declare()
    bus.publish("orders.created", 1)
    remember(connection, breaking=False)
    connection.execute("alter table pgbus.worker add column zone text")
    connection.execute("create table pgbus.later ()")
    bus.install()
    with bus.running():
        bus.publish("orders.created", 2)
        assert bus.wait_idle()
    assert sorted(handled) == [1, 2]


def test_a_newer_schema_makes_the_functions_of_a_subscription_anew(
    bus: Bus, connection: Connection
) -> None:
    handled = counting(bus)
    bus.declare()
    connection.execute(
        "create or replace function pgbus.bury_billing(p_worker bigint) returns integer "
        "language sql return 1 / 0"
    )
    made = "select prosrc from pg_proc where oid = 'pgbus.bury_billing(bigint)'::regprocedure"
    old = connection.execute(made.encode()).fetchone()
    bus.declare()
    assert connection.execute(made.encode()).fetchone() == old
    remember(connection, breaking=False)
    with bus.running():
        assert connection.execute(made.encode()).fetchone() != old
        bus.publish("orders.created", 1)
        assert bus.wait_idle()
    assert handled == [1]


def test_a_newer_schema_with_breaking_changes_is_refused(bus: Bus, connection: Connection) -> None:
    counting(bus)
    bus.install()
    before = snapshot(connection.info.dsn)
    remember(connection, breaking=True)
    for action in (bus.install, bus.declare, bus.start):
        with pytest.raises(IncompatibleDatabase, match=r"9001 \(partitions\) .* upgrade pgbus"):
            action()
    assert snapshot(connection.info.dsn) == before


def test_publishing_into_a_schema_with_breaking_changes_is_refused(
    bus: Bus, connection: Connection
) -> None:
    remember(connection, breaking=True)
    with pytest.raises(IncompatibleDatabase):
        bus.publish("orders.created", 1)


def test_a_migration_that_was_changed_after_it_was_applied_is_refused(
    bus: Bus, connection: Connection
) -> None:
    counting(bus)
    connection.execute("update pgbus.migration set checksum = md5(checksum) where number = 2")
    for action in (bus.install, bus.declare, bus.start):
        with pytest.raises(IncompatibleDatabase, match=r"0002 \(routing\) .* changed after it was"):
            action()


def test_an_older_schema_asks_for_an_installation(bus: Bus, connection: Connection) -> None:
    counting(bus)
    last = migrations()[-1]
    connection.execute("delete from pgbus.migration where number = %s", (last.number,))
    for action in (bus.declare, bus.start):
        with pytest.raises(StoreError, match=rf"older than this release.*{last.name}.*install"):
            action()


@pytest.mark.parametrize("action", ["start", "declare", "publish", "status"])
def test_a_database_without_pgbus_says_so(
    dsn: str, action: str, connect: Callable[[str], Connection]
) -> None:
    actions: dict[str, Callable[[Bus], object]] = {
        "start": Bus.start,
        "declare": Bus.declare,
        "publish": lambda bus: bus.publish("orders.created", 1),
        "status": Bus.status,
    }
    with Bus(dsn) as bus:
        counting(bus)
        with pytest.raises(StoreError, match="pgbus is not installed") as failure:
            actions[action](bus)
        assert not failure.value.outcome_unknown
        assert isinstance(failure.value.__cause__, psycopg.Error)
        with pytest.raises(StoreError, match="pgbus is not installed"):
            bus.publish("orders.created", 1, connection=connect(dsn))
        bus.install()  # and the same bus works from then on
        actions[action](bus)


def test_what_makes_a_migration_breaking_is_its_first_line() -> None:
    assert Migration(1, "one", "-- breaking\ndrop table x;").breaking
    assert not Migration(1, "one", "-- not -- breaking\ndrop table x;").breaking
    assert not any(one.breaking for one in migrations())
    assert Migration(1, "one", "a").checksum != Migration(1, "one", "b").checksum

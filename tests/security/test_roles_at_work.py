"""Each role does its work through a bus, with a login that has no other role, and nothing else."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from pgbus import (
    Bus,
    ConfigurationError,
    Context,
    Event,
    Outgoing,
    PgbusError,
    Reject,
    Retry,
    StoreError,
)
from pgbus.store import tail
from pgbus.store.query import run
from tests.security.conftest import BusAs, ConnectAs
from tests.security.house import House, declare
from tests.waiting import eventually

REFUSED = "PostgreSQL refused: "


class Ordered(Event, topic="orders.created", key="order"):
    order: str


def refused(*actions: Callable[[], object]) -> None:
    for action in actions:
        with pytest.raises(StoreError, match=REFUSED) as failure:
            action()
        assert isinstance(failure.value.__cause__, psycopg.errors.InsufficientPrivilege)


def administering(bus: Bus) -> list[Callable[[], object]]:
    """What operators may."""
    return [
        bus.status,
        bus.bindings,
        lambda: bus.dead_letters("billing"),
        lambda: bus.redrive("billing"),
        lambda: bus.drop_dead_letters("billing"),
    ]


def owning(bus: Bus) -> list[Callable[[], object]]:
    """What the owner alone may."""
    return [
        bus.install,
        lambda: bus.drop_subscription("billing", force=True),
        lambda: bus.rename_subscription("billing", "invoicing"),
    ]


def publish_everyhow(bus: Bus, connection: "psycopg.Connection[tuple[object, ...]]") -> int:
    """Publish in every way there is; return how many events each subscription gets."""
    given = uuid4()
    receipts = [
        bus.publish(Ordered(order="1")),
        bus.publish(Ordered(order="2")),  # by what it remembers
        *bus.publish_many([Ordered(order="3"), Outgoing("orders.paid", {"n": 1}, key="3")]),
        bus.publish("orders.paid", {"n": 2}, headers={"tenant": "a"}, id=given),
        bus.publish("orders.paid", {"n": 3}, delay=0.01),
    ]
    assert [receipt.queues for receipt in receipts] == [2] * len(receipts)
    assert bus.publish("orders.paid", {"n": 2}, id=given).duplicate
    assert bus.publish("nobody.listens", 1).queues == 0
    with connection.transaction():
        assert bus.publish(Ordered(order="4"), connection=connection).queues == 2
    with connection.transaction(force_rollback=True):
        bus.publish(Ordered(order="5"), connection=connection)
    return len(receipts) + 1


def test_a_publisher_publishes_and_nothing_else(
    bus_as: BusAs, connect_as: ConnectAs, house: House
) -> None:
    bus = bus_as("publisher")
    count = publish_everyhow(bus, connect_as("publisher"))
    left = {one.name: one.ready + one.delayed for one in bus_as("operator").status()}
    assert left == {"billing": count, "shipping": count}
    refused(*administering(bus), *owning(bus))

    declare_one = bus_as("publisher")
    with pytest.raises(StoreError, match="permission denied for function declare"):
        declare(declare_one, "billing")


def test_a_subscriber_serves_its_subscription_and_publishes(
    bus_as: BusAs, connect_as: ConnectAs
) -> None:
    bus = bus_as("billing", lease=3)
    handled: list[str] = []
    failed = threading.Event()

    @bus.subscribe("orders.#", name="billing", retry=Retry(max_attempts=2, initial=0.01))
    def on_order(event: Ordered | dict[str, int], context: Context) -> None:
        if isinstance(event, dict):
            raise Reject("no order")
        if event.order == "1" and not failed.is_set():
            failed.set()
            raise ValueError
        context.publish("invoices.created", {"order": event.order})
        handled.append(event.order)

    with bus.running():
        count = publish_everyhow(bus, connect_as("billing"))
        assert count == 7
        eventually(lambda: sorted(handled) == ["1", "2", "3", "4"])
        assert bus.wait_idle()
    letters = list(bus_as("operator").dead_letters("billing"))
    assert [letter.error for letter in letters] == ["Reject: no order"] * 3
    refused(*administering(bus), *owning(bus))


def test_a_transactional_handler_writes_with_its_own_rights(
    bus_as: BusAs, connect_as: ConnectAs, house: House, db: str
) -> None:
    with psycopg.connect(db, autocommit=True) as connection:
        connection.execute("create table public.invoice (number text)")
        grant = sql.SQL("grant insert, select on public.invoice to {}")
        connection.execute(grant.format(sql.Identifier(house.login("billing"))))
    bus = bus_as("billing")

    @bus.subscribe("orders.#", name="billing")
    def on_order(event: Ordered, connection: psycopg.Connection) -> None:
        connection.execute("insert into public.invoice values (%s)", (event.order,))
        with pytest.raises(psycopg.errors.InsufficientPrivilege), connection.transaction():
            connection.execute("delete from pgbus.lease")

    with bus.running():
        bus.publish(Ordered(order="1"))
        assert bus.wait_idle()
    assert connect_as("billing").execute("select number from invoice").fetchall() == [("1",)]


def test_a_subscriber_may_not_serve_another_subscription(bus_as: BusAs) -> None:
    bus = bus_as("billing")

    @bus.subscribe("orders.#", name="shipping")
    def on_order(event: object) -> None: ...

    with pytest.raises(
        StoreError, match=r"role t\w+_as_billing may not serve subscription shipping"
    ) as failure:
        bus.start()
    assert "grant it" in str(failure.value)
    assert "_subscriber_shipping" in str(failure.value)


@pytest.mark.parametrize(("name", "ordered"), [("invoicing", True), ("billing", False)])
def test_a_subscriber_may_not_create_or_change_a_subscription(
    bus_as: BusAs, name: str, ordered: bool
) -> None:
    bus = bus_as("billing")

    @bus.subscribe("orders.#", name=name, ordered=ordered)
    def on_order(event: object) -> None: ...

    for action in (bus.start, bus.declare):
        with pytest.raises(
            StoreError,
            match=rf"role t\w+_as_billing may not create or change subscription {name}: "
            "let an operator run 'pgbus declare MODULE:BUS'",
        ):
            action()


def test_a_subscriber_may_prune_bindings_and_add_none(bus_as: BusAs) -> None:
    bus, other = bus_as("billing"), bus_as("billing")

    @bus.subscribe("orders.#", "audit.#", name="billing")
    def on_everything(event: object) -> None: ...

    with pytest.raises(StoreError, match="may not bind subscription billing to further patterns"):
        bus.start()

    @other.subscribe("orders.created", name="billing")
    def on_order(event: object) -> None: ...

    operator = bus_as("operator")

    @operator.subscribe("orders.created", name="billing")
    def declared(event: object) -> None: ...

    operator.declare()
    with other.running():
        bound = [one.pattern for one in operator.bindings() if one.queue == "billing"]
    assert bound == ["orders.created"]


def test_an_operator_declares_watches_and_repairs(bus_as: BusAs, connect_as: ConnectAs) -> None:
    bus, worker = bus_as("operator"), bus_as("billing")
    declare(bus, "invoicing")
    assert {one.name for one in bus_as("operator").status()} == {
        "billing",
        "shipping",
        "invoicing",
    }
    assert len([one for one in bus.bindings() if one.queue == "invoicing"]) == 2

    @worker.subscribe("orders.#", name="billing")
    def on_order(event: object) -> None:
        raise Reject("closed")

    with worker.running():
        worker.publish_many([Ordered(order=str(n)) for n in range(3)])
        assert worker.wait_idle()
    [first, *_] = bus.dead_letters("billing")
    assert first.id is not None
    assert bus.redrive("billing", [first.id]) == 1
    assert bus.drop_dead_letters("billing") == 2
    with pytest.raises(ConfigurationError, match="there is no subscription"):
        bus.redrive("elsewhere")

    connection = connect_as("operator")
    run(connection, tail.start(7, ["orders.*"]))
    bus_as("publisher").publish(Ordered(order="4"))
    assert len(run(connection, tail.read(7, 10))) == 1
    run(connection, tail.stop(7))
    assert run(connection, tail.sweep()) == []

    refused(*owning(bus), lambda: bus.publish(Ordered(order="5")))
    server = bus_as("operator")

    @server.subscribe("orders.#", name="billing")
    def on_orders(event: object) -> None: ...

    refused(server.start)


def test_the_owner_may_do_everything(bus_as: BusAs, connect_as: ConnectAs) -> None:
    bus = bus_as("owner")
    bus.install()
    handled = []

    @bus.subscribe("orders.#", name="invoicing")
    def on_order(event: object) -> None:
        handled.append(event)

    with bus.running():
        bus.publish(Ordered(order="1"))
        assert bus.wait_idle()
    assert len(handled) == 1
    assert {one.name for one in bus.status("billing", "shipping", "invoicing")}
    bus.rename_subscription("invoicing", "accounting")
    bus.drop_subscription("accounting")
    bus.drop_subscription("billing", force=True)


def test_without_a_role_nothing_works(bus_as: BusAs) -> None:
    bus = bus_as("nobody")
    refused(
        lambda: bus.publish(Ordered(order="1")),
        lambda: declare(bus, "billing"),
        *administering(bus),
        *owning(bus),
    )


def test_a_subscription_that_is_dropped_and_made_again_needs_its_rights_again(
    bus_as: BusAs, house: House
) -> None:
    owner, publisher = bus_as("owner"), bus_as("publisher")
    publisher.publish(Ordered(order="1"))
    owner.drop_subscription("billing", force=True)
    assert publisher.publish(Ordered(order="2")).queues == 1
    declare(bus_as("operator"), "billing")
    assert publisher.publish(Ordered(order="3")).queues == 2
    # The role is there: whoever declares the subscription gives it its new functions.
    worker = bus_as("billing")
    handled: list[object] = []

    @worker.subscribe("orders.#", name="billing")
    def on_order(event: object) -> None:
        handled.append(event)

    with worker.running():
        assert worker.wait_idle()
    assert len(handled) == 1


def test_a_renamed_subscription_is_its_new_roles(
    bus_as: BusAs, house: House, connect_as: ConnectAs, db: str
) -> None:
    bus_as("owner").rename_subscription("billing", "invoicing")
    refused(lambda: declare(bus_as("billing"), "billing"))
    with Bus(db) as bus:
        bus.install(roles=house.prefix)
    rows = connect_as("").execute(
        "select has_function_privilege(%s, p.oid, 'execute') from pg_proc p "
        "where proname in ('take_invoicing', 'settle_invoicing', 'acknowledge_invoicing')",
        (house.role("subscriber_invoicing"),),
    )
    assert rows.fetchall() == [(True,), (True,), (True,)]


def test_who_takes_a_role_has_no_more_than_it(connect_as: ConnectAs, house: House, db: str) -> None:
    """SET ROLE counts, and not who logged in: a superuser's, or one without rights of its own."""
    superuser = connect_as("")
    number = superuser.execute("select id from pgbus.subscription where name = 'shipping'")
    [(shipping,)] = number.fetchall()
    superuser.execute(
        sql.SQL("set role {}").format(sql.Identifier(house.role("subscriber_billing")))
    )
    for statement in ("select pgbus.poll(%s, '{}')", "select pgbus.idle(%s)"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="may not serve"):
            superuser.execute(statement.encode(), ([shipping],))
    house.hire("stranger", "noinherit", "subscriber_shipping")
    stranger = connect_as("stranger")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        stranger.execute("select pgbus.idle(%s)", ([shipping],))
    stranger.execute(
        sql.SQL("set role {}").format(sql.Identifier(house.role("subscriber_shipping")))
    )
    assert stranger.execute("select pgbus.idle(%s)", ([shipping],)).fetchall() == [(True,)]


WORKER = """
import sys, threading
from pgbus import Bus
bus = Bus(sys.argv[1], lease=0.5)
@bus.subscribe("orders.#", name=sys.argv[2])
def on_order(event: object) -> None:
    print("handling", flush=True)
    threading.Event().wait()
with bus.running():
    print("running", flush=True)
    threading.Event().wait()
"""


def test_a_dead_worker_of_one_role_is_buried_by_another(
    bus_as: BusAs, house: House, db: str
) -> None:
    """A stopped process of shipping, which only processes of billing outlive."""
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, house.dsn(db, "shipping"), "shipping"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        bus_as("publisher").publish(Ordered(order="1"))
        assert process.stdout.readline() == "handling\n"
        os.kill(process.pid, signal.SIGSTOP)
        bus = bus_as("billing", lease=0.5)

        @bus.subscribe("orders.#", name="billing")
        def on_order(event: object) -> None: ...

        operator = bus_as("operator")

        def given_up() -> bool:
            [status] = operator.status("shipping")
            return (status.in_flight, status.ready, status.workers) == (0, 1, 0)

        with bus.running():
            eventually(given_up)
    finally:
        process.kill()
        process.communicate()


def test_errors_of_rights_are_pgbus_errors(bus_as: BusAs) -> None:
    with pytest.raises(PgbusError) as failure:
        bus_as("publisher").status()
    assert "one of those that 'pgbus install --roles' makes" in str(failure.value)

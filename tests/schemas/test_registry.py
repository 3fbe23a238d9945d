"""What services record of their event types, and what is refused."""

import logging
import socket
import threading
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import psycopg
import pytest

from pgbus import Bus, ConfigurationError, SchemaConflict, downcast
from pgbus.core.recorded import Acceptor, Publishing, Recorded
from pgbus.core.schema import describe
from pgbus.store import schemas
from pgbus.store.query import Operation, run
from pgbus.threads.contracts import RENEW
from tests.schemas.kinds import TOPIC, event, handler
from tests.waiting import eventually

V1 = event(("order_id", str), ("total", int), key="order_id")
V1_OTHERWISE = event(("order_id", str), ("total", float), ("note", str), key="order_id")
V2 = event(("order_id", str), ("total", int), ("currency", str, "EUR"), version=2)
PAID = event(("order_id", str), topic="orders.paid", name="OrderPaid")


@downcast(V2, to_version=1)
def to_first(new: dict[str, Any]) -> dict[str, Any]:
    return {name: new[name] for name in ("order_id", "total")}


@pytest.fixture
def ask(bus_dsn: str) -> Callable[[Operation[Any]], Any]:
    """Ask the registry."""

    def asked(operation: Operation[Any]) -> Any:
        with psycopg.connect(bus_dsn, autocommit=True) as connection:
            return run(connection, operation)

    return asked


Ask = Callable[[Operation[Any]], Any]
MakeBus = Callable[..., Bus]


def subscribe(bus: Bus, annotation: Any, *patterns: str, name: str = "billing") -> list[Any]:
    seen: list[Any] = []
    bus.subscribe(*(patterns or ("orders.*",)), name=name)(handler(annotation, seen.append))
    return seen


def test_a_start_records_what_the_subscriptions_accept(make_bus: MakeBus, ask: Ask) -> None:
    bus = make_bus(service="billing", service_version="1.4")
    subscribe(bus, V1 | PAID)
    with bus.running():
        found: list[Recorded] = ask(schemas.event_types())
        [worker] = ask(schemas.acceptors())
    assert [(one.schema.topic, one.schema.version, one.by) for one in found] == [
        (TOPIC, 1, "billing"),
        ("orders.paid", 1, "billing"),
    ]
    assert found[0].schema == describe(V1)
    assert isinstance(worker, Acceptor)
    assert (worker.subscription, worker.service, worker.service_version, worker.host) == (
        "billing",
        "billing",
        "1.4",
        socket.gethostname(),
    )
    assert {(one.topic, one.version, one.fingerprint) for one in worker.accepted} == {
        (one.topic, one.version, one.fingerprint) for one in (describe(V1), describe(PAID))
    }
    assert 0 <= worker.seen.total_seconds() < 10
    assert ask(schemas.acceptors()) == [], "who stopped accepts nothing"
    assert ask(schemas.publishers()) == []


def test_the_first_publish_records_the_type_and_who_publishes(make_bus: MakeBus, ask: Ask) -> None:
    bus = make_bus(service="shop", service_version="2.0")
    bus.publish(V2(order_id="a", total=1))
    assert [one.schema for one in ask(schemas.event_types(TOPIC))] == [describe(V2)]
    [found] = ask(schemas.publishers())
    assert found[:6] == Publishing(TOPIC, 2, "shop", "2.0", (1,), 1, found.seen)[:6]
    assert 0 <= found.seen.total_seconds() < 10


def test_what_is_no_event_or_goes_elsewhere_records_nothing(bus: Bus, ask: Ask) -> None:
    bus.publish("orders.created", {"order_id": "a"})
    bus.publish("archive.orders", V1(order_id="a", total=1))
    assert ask(schemas.event_types()) == []
    bus.publish(V1(order_id="a", total=1))
    assert len(ask(schemas.event_types())) == 1


def test_a_publisher_says_once_an_hour_that_it_still_publishes(
    make_bus: MakeBus, ask: Ask, bus_dsn: str
) -> None:
    bus = make_bus(service="shop")
    bus.publish(V1(order_id="a", total=1))
    long_ago = "update pgbus.publisher set last_seen = last_seen - interval '30 days'"
    with psycopg.connect(bus_dsn, autocommit=True) as connection:
        connection.execute(long_ago)
    bus.publish(V1(order_id="b", total=1))
    assert ask(schemas.publishers())[0].seen.days >= 30
    bus._contracts.expire(bus._contracts._renew_at)
    bus.publish(V1(order_id="c", total=1))
    assert ask(schemas.publishers())[0].seen.days == 0
    assert RENEW == 3600


@pytest.mark.parametrize("how", ["publish", "start"])
def test_a_type_that_changed_under_its_version_is_refused_with_the_difference(
    make_bus: MakeBus, how: str
) -> None:
    make_bus(service="shop").publish(V1(order_id="a", total=1))
    later = make_bus(service="billing")
    subscribe(later, V1_OTHERWISE)
    changed = V1_OTHERWISE(order_id="a", total=1.5, note="x")
    refused = {"publish": lambda: later.publish(changed), "start": later.start}
    with pytest.raises(SchemaConflict) as caught:
        refused[how]()
    said = str(caught.value)
    assert said.startswith(f"{TOPIC} version 1 is not what shop recorded on 20")
    assert "total: integer became number (widened)" in said
    assert "note: was added: string without a default" in said
    assert "version=2" in said
    assert f"pgbus schema forget {TOPIC} 1" in said


def test_nothing_is_stored_of_a_publish_that_is_refused(make_bus: MakeBus) -> None:
    make_bus().publish(V1(order_id="a", total=1))
    later = make_bus()
    seen = subscribe(later, dict[str, Any], "#")
    later.declare()
    with pytest.raises(SchemaConflict):
        later.publish_many([PAID(order_id="a"), V1_OTHERWISE(order_id="a", total=1.5, note="x")])
    with later.running():
        assert later.wait_idle()
    assert seen == []


def test_the_check_can_warn(make_bus: MakeBus, ask: Ask, caplog: pytest.LogCaptureFixture) -> None:
    make_bus(service="shop").publish(V1(order_id="a", total=1))
    later = make_bus(service="billing", schema_check="warn")
    seen = subscribe(later, V1_OTHERWISE)
    with caplog.at_level(logging.WARNING, "pgbus"), later.running():
        told = [record.getMessage() for record in caplog.records]
        later.publish(V1_OTHERWISE(order_id="a", total=1.5, note="x"))
        assert later.wait_idle()
    assert ["note: was added" in one for one in told] == [True]
    assert len(seen) == 1
    assert [one.schema for one in ask(schemas.event_types())] == [describe(V1)]


def test_the_check_can_be_off(
    make_bus: MakeBus, ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    make_bus(service="shop").publish(V1(order_id="a", total=1))
    later = make_bus(service="billing", schema_check="off")
    seen = subscribe(later, V1_OTHERWISE | PAID)
    with caplog.at_level(logging.WARNING, "pgbus"), later.running():
        later.publish(V1_OTHERWISE(order_id="a", total=1.5, note="x"))
        later.publish(PAID(order_id="a"))
        assert later.wait_idle()
        assert ask(schemas.acceptors())[0].accepted == ()
    assert len(seen) == 2
    assert not [record for record in caplog.records if "orders" in record.getMessage()]
    assert [one.schema for one in ask(schemas.event_types())] == [describe(V1)]


def test_another_key_is_a_warning(make_bus: MakeBus, caplog: pytest.LogCaptureFixture) -> None:
    make_bus(service="shop").publish(V1(order_id="a", total=1))
    keyless = event(("order_id", str), ("total", int))
    with caplog.at_level(logging.WARNING, "pgbus"):
        make_bus(service="other").publish(keyless(order_id="a", total=1))
    [told] = [record.getMessage() for record in caplog.records]
    assert "its key is None here and 'order_id' in the registry" in told


def test_a_forgotten_type_is_recorded_anew(make_bus: MakeBus, ask: Ask) -> None:
    make_bus().publish(V1(order_id="a", total=1))
    assert ask(schemas.forget(TOPIC, 1)) is True
    assert ask(schemas.forget(TOPIC, 1)) is False
    assert ask(schemas.publishers()) == []
    make_bus().publish(V1_OTHERWISE(order_id="a", total=1.5, note="x"))
    assert [one.schema for one in ask(schemas.event_types())] == [describe(V1_OTHERWISE)]


def test_the_service_version_is_the_installed_one(make_bus: MakeBus) -> None:
    assert make_bus(service="pgbus")._contracts.service_version == version("pgbus")
    assert make_bus(service="no-such-distribution")._contracts.service_version == ""
    assert make_bus(service="pgbus", service_version="9")._contracts.service_version == "9"


def test_recording_in_a_callers_transaction_outlives_it(
    make_bus: MakeBus, ask: Ask, bus_dsn: str
) -> None:
    bus = make_bus()
    with psycopg.connect(bus_dsn) as connection:
        bus.publish(V1(order_id="a", total=1), connection=connection)
        connection.rollback()
    assert len(ask(schemas.event_types())) == 1


def test_of_two_that_record_at_once_the_second_is_refused(make_bus: MakeBus, bus_dsn: str) -> None:
    waits = "select count(*) from pg_stat_activity where wait_event = 'transactionid'"
    bus = make_bus()
    bus.publish("warm.up", {})
    caught: list[BaseException] = []

    def publish() -> None:
        try:
            bus.publish(V1_OTHERWISE(order_id="a", total=1.5, note="x"))
        except SchemaConflict as error:
            caught.append(error)

    with psycopg.connect(bus_dsn) as first, psycopg.connect(bus_dsn, autocommit=True) as other:
        run(first, schemas.record("shop", [describe(V1)]))
        second = threading.Thread(target=publish)
        second.start()
        eventually(lambda: other.execute(waits).fetchone() == (1,))
        first.commit()
        second.join(10)
    assert len(caught) == 1
    assert "is not what shop recorded" in str(caught[0])


WILDCARDS: list[tuple[Any, tuple[str, ...], str | None]] = [
    (V1 | PAID, ("orders.*",), None),
    (V1, ("orders.created", "refunds.*"), "its pattern 'refunds.*' matches no known topic"),
    (V1, ("orders.*",), "its pattern 'orders.*' delivers 'orders.paid', for which it has no type"),
    (V1 | dict[str, Any], ("orders.*",), None),
    (dict[str, Any], ("anything.#",), None),
]


@pytest.mark.parametrize(("annotation", "patterns", "fault"), WILDCARDS)
@pytest.mark.parametrize("check", ["error", "warn", "off"])
def test_patterns_are_checked_against_types_and_known_topics(
    make_bus: MakeBus,
    caplog: pytest.LogCaptureFixture,
    annotation: Any,
    patterns: tuple[str, ...],
    fault: str | None,
    check: str,
) -> None:
    make_bus().publish(PAID(order_id="a"))
    bus = make_bus(wildcard_check=check)
    subscribe(bus, annotation, *patterns)
    with caplog.at_level(logging.WARNING, "pgbus"):
        if fault is not None and check == "error":
            with pytest.raises(ConfigurationError) as caught:
                bus.start()
            assert str(caught.value) == f"subscription billing: {fault}"
            return
        with bus.running():
            pass
    told = [record.getMessage() for record in caplog.records]
    wanted = [] if fault is None or check == "off" else [f"subscription billing: {fault}"]
    assert told == wanted


def test_a_type_that_no_pattern_can_deliver_is_refused_at_once(bus: Bus) -> None:
    with pytest.raises(ConfigurationError, match=r"'orders\.paid', which none of the patterns"):
        bus.subscribe("orders.created", name="billing")(handler(V1 | PAID, id))

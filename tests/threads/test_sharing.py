"""Several buses on one database: shares, versions side by side, and what goes to the log."""

import logging
import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from pgbus import Bus, Context, Event, Incident, Outgoing, Reject, Retry
from pgbus.threads import fetcher, keeper, station
from tests.store.queue import Queue
from tests.waiting import eventually


class Created(Event, topic="orders.created", key="order"):
    order: str
    n: int = 0


class CreatedLater(Event, topic="orders.created", version=2, key="number"):
    number: str
    total: int


@pytest.fixture
def opened() -> threading.Event:
    """What handlers of these tests wait for."""
    return threading.Event()


def test_a_process_whose_threads_are_all_busy_gives_empty_keys_back_at_once(
    bus: Bus, bus_dsn: str, opened: threading.Event
) -> None:
    begun = threading.Event()

    @bus.subscribe("orders.*", name="billing", concurrency=1)
    def wait(event: Created) -> None:
        begun.set()
        opened.wait(30)

    with psycopg.connect(bus_dsn, autocommit=True) as sql, bus.running():
        queue = Queue(sql)
        bus.publish(Created(order="busy"))
        assert begun.wait(20)
        with psycopg.connect(bus_dsn) as blocker:
            blocker.execute(
                "insert into pgbus.lease values (%s, %s, 1, 1, 1)",
                (queue.number, queue.lane("late")),
            )
            bus.publish(Created(order="late"))
            # The bus has seen it, and waits ...
            eventually(lambda: sql.execute("select from pg_locks where not granted").rowcount)
            # ... while it is handled elsewhere.
            sql.execute("delete from pgmq.q_billing where headers ->> 'x-pgmq-group' = 'late'")
            blocker.rollback()
        bus.publish(Created(order="next"))
        held = {queue.lane("busy"), queue.lane("next")}
        eventually(lambda: held <= queue.leases().keys())
        eventually(lambda: held == queue.leases().keys())
        opened.set()
        assert bus.wait_idle(20)


def test_a_blocked_process_leaves_the_rest_to_others(
    make_bus: Callable[..., Bus], opened: threading.Event
) -> None:
    blocked, free = make_bus(service="blocked"), make_bus(service="free")
    begun: list[int] = []
    handled: list[int] = []

    @blocked.subscribe("orders.*", name="billing", concurrency=2)
    def wait(event: Created) -> None:
        begun.append(event.n)
        opened.wait(30)

    @free.subscribe("orders.*", name="billing", concurrency=2)
    def handle(event: Created) -> None:
        handled.append(event.n)

    blocked.declare()
    blocked.publish_many([Created(order=f"o{n}", n=n) for n in range(200)])
    with blocked.running():
        eventually(lambda: len(begun) == 2)
        with free.running():
            eventually(lambda: len(handled) > 150)
            assert set(handled).isdisjoint(begun)
            opened.set()
            assert free.wait_idle(10)
    assert sorted(begun + handled) == list(range(200))


def test_a_slow_subscription_holds_up_no_other(bus: Bus, opened: threading.Event) -> None:
    quick: list[int] = []

    @bus.subscribe("orders.*", name="slow", concurrency=1)
    def wait(event: Created) -> None:
        opened.wait(30)

    @bus.subscribe("orders.*", name="quick", concurrency=1)
    def handle(event: Created) -> None:
        quick.append(event.n)

    with bus.running():
        for n in range(20):
            bus.publish_many([Created(order=f"o{k}", n=n) for k in range(100)])
        eventually(lambda: len(quick) == 2000)
        assert bus.status("slow")[0].in_flight < 50
        opened.set()
        assert bus.wait_idle(20)


def test_large_bodies_are_held_by_their_bytes(bus: Bus, opened: threading.Event) -> None:
    """Stored, they are small: it is the text that fills the memory."""
    seen = 0

    @bus.subscribe("big", name="big", concurrency=4)
    def handle(event: str) -> None:
        nonlocal seen
        seen += 1
        if seen > 40:
            opened.wait(30)

    bus.declare()
    for _ in range(10):
        bus.publish_many([Outgoing("big", "x" * 900_000) for _ in range(10)])
    with bus.running():
        eventually(lambda: seen > 43)
        assert bus.status()[0].in_flight <= 24
        opened.set()
        assert bus.wait_idle(30)


def test_an_unknown_version_waits_for_a_worker_that_knows_it(
    make_bus: Callable[..., Bus], monkeypatch: pytest.MonkeyPatch
) -> None:
    # What one gives back, which tells nobody, the other finds by its polls: more of them.
    monkeypatch.setattr(fetcher, "SLEEP", 0.1)
    monkeypatch.setattr(station, "REMEMBER", 0.2)
    old, new = make_bus(service="old"), make_bus(service="new")
    seen: list[tuple[str, object, int]] = []

    @old.subscribe("orders.*", name="billing", concurrency=2)
    def handle_old(event: Created, context: Context) -> None:
        seen.append(("old", event, context.attempt))

    @new.subscribe("orders.*", name="billing", concurrency=2)
    def handle_new(event: Created | CreatedLater, context: Context) -> None:
        seen.append(("new", event, context.attempt))

    events = [CreatedLater(number=f"o{n}", total=n) for n in range(20)]
    with old.running():
        new.start()
        new.publish_many(events)
        assert old.wait_idle(60)
        assert [who for who, _, _ in seen] == ["new"] * 20
        assert {attempt for _, _, attempt in seen} == {1}
        new.stop()
        # Nobody is left who knows it.
        old.publish(CreatedLater(number="late", total=1))
        eventually(lambda: list(old.dead_letters("billing")))
    [letter] = old.dead_letters("billing")
    assert "version 2" in letter.error
    assert letter.attempts == 1


def test_of_types_that_nobody_knows_nothing_is_remembered(bus: Bus) -> None:
    """Anybody may send messages of any number of them."""

    @bus.subscribe("#", name="billing")
    def on_order(event: Created) -> None:
        """Is never called."""

    with bus.running():
        for number in range(20):
            bus.publish(f"foreign.{number}", {}, key="a")
        assert bus.wait_idle(20)
        assert bus._engine is not None
        assert not bus._engine._station._known
    assert len(list(bus.dead_letters("billing"))) == 20


def test_log_records_say_which_delivery_they_speak_of(
    bus: Bus, caplog: pytest.LogCaptureFixture
) -> None:
    @bus.subscribe("orders.*", name="billing", retry=Retry(max_attempts=2, initial=0.01))
    def handle(event: Created) -> None:
        raise ValueError("s3cr3t")

    with caplog.at_level(logging.INFO, logger="pgbus"), bus.running():
        receipt = bus.publish(Created(order="a"))
        assert bus.wait_idle(10)
    told = [one for one in caplog.records if hasattr(one, "event_id")]
    assert [(one.levelname, one.name.split(".")[0]) for one in told] == [
        ("WARNING", "pgbus"),
        ("ERROR", "pgbus"),
    ]
    for attempt, record in enumerate(told, 1):
        extra = {name: getattr(record, name) for name in ("event_id", "topic", "key", "attempt")}
        assert extra == {
            "event_id": str(receipt.id),
            "topic": "orders.created",
            "key": "a",
            "attempt": attempt,
        }
        assert record.subscription == "billing"  # type: ignore[attr-defined]
        assert "s3cr3t" not in record.getMessage()


def test_a_handler_may_take_longer_than_the_lease(
    make_bus: Callable[..., Bus], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "BEATS", 20)
    lease = 6.0
    deliveries: list[int] = []
    incidents: list[Incident] = []

    def slow(event: Created) -> None:
        deliveries.append(event.n)
        if event.n == 0:
            threading.Event().wait(1.5 * lease)

    buses = [make_bus(lease=lease) for _ in range(2)]
    for bus in buses:
        bus.subscribe("orders.*", name="billing")(slow)
        bus.on_error(incidents.append)
    with buses[0].running(), buses[1].running():
        buses[0].publish_many([Created(order="a", n=n) for n in range(2)])
        assert buses[0].wait_idle(30)
    assert deliveries == [0, 1]
    assert incidents == []


@pytest.mark.parametrize("fault", [RuntimeError, SystemExit])
def test_a_callback_that_fails_harms_nobody(
    bus: Bus, caplog: pytest.LogCaptureFixture, fault: type[BaseException]
) -> None:
    told: list[tuple[str, int]] = []

    @bus.on_error
    def fail(incident: Incident) -> None:
        raise fault

    @bus.on_error
    def note(incident: Incident) -> None:
        told.append((incident.kind, incident.context.attempt))

    @bus.subscribe("orders.*", name="billing")
    def handle(event: Created) -> None:
        raise Reject("no")

    with bus.running():
        bus.publish_many([Created(order="a", n=n) for n in range(3)])
        assert bus.wait_idle(10)
    assert told == [("dead_letter", 1)] * 3
    assert caplog.text.count("an on_error callback failed") == 3


def test_other_headers_arrive_and_pass_on_their_cause(bus: Bus) -> None:
    seen: list[Context] = []

    @bus.subscribe("first", name="one")
    def first(event: Any, context: Context) -> None:
        seen.append(context)
        context.publish("second", {}, headers={"tenant": context.headers["tenant"]})

    @bus.subscribe("second", name="two")
    def second(event: Any, context: Context) -> None:
        seen.append(context)

    with bus.running():
        receipt = bus.publish("first", {}, headers={"tenant": "acme"})
        assert bus.wait_idle(10)
    assert [context.headers for context in seen] == [{"tenant": "acme"}] * 2
    assert seen[1].causation_id == seen[1].correlation_id == str(receipt.id)

"""Wake-ups that come at the wrong moment, and sleepers that lost count."""

import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from pgbus import BatchContext, Bus, Event
from pgbus.core import rounds
from pgbus.model.delivery import Chunk, Message
from pgbus.store import query
from pgbus.store.leases import Take, Taken, poll, take
from pgbus.threads import fetcher
from pgbus.threads.link import Link
from pgbus.threads.session import Session
from pgbus.threads.subscription import Hold, Parcel, Subscription
from tests.threads.asleep import sleepers
from tests.waiting import eventually


class Created(Event, topic="orders.created", key="order"):
    order: str


def test_a_take_that_fails_leaves_nobody_asleep(
    bus: Bus, bus_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asleep twice and woken once, it would have every publisher notify it for ever."""
    fail = threading.Event()
    failed: list[Take] = []

    def timed_out(connection: "psycopg.Connection[Any]", order: Take) -> Taken:
        if fail.is_set():
            fail.clear()
            failed.append(order)
            connection.execute("set statement_timeout = 1")
            try:
                connection.execute("select pg_sleep(10)")
            finally:
                connection.execute("reset statement_timeout")
        return take(connection, order)

    monkeypatch.setattr(fetcher, "take", timed_out)

    @bus.subscribe("orders.*", name="billing")
    def on_order(event: Created) -> None:
        """Handles it."""

    with bus.running():
        eventually(lambda: sleepers(bus_dsn) == 1)
        fail.set()
        bus.publish(Created(order="a"))
        assert bus.wait_idle(20)
        assert failed

        def awake() -> bool:
            bus.publish_many([Created(order=str(number)) for number in range(2_000)])
            return sleepers(bus_dsn) == 0

        eventually(awake)


def test_an_event_that_is_scheduled_during_a_poll_is_heard_of(
    bus: Bus, bus_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetcher, "POLL", 600.0)
    monkeypatch.setattr(fetcher, "SLEEP", 600.0)
    handled, armed = threading.Event(), threading.Event()

    def slow(*arguments: Any, **options: Any) -> Any:
        """Let the server answer; then something is scheduled before the answer is read."""
        answers = yield from poll(*arguments, **options)
        if armed.is_set():
            armed.clear()
            bus.publish(Created(order="a"), delay=0.01)
            time.sleep(0.3)  # the listener has heard of it
        return answers

    monkeypatch.setattr(fetcher, "poll", slow)

    @bus.subscribe("orders.*", name="billing")
    def on_order(event: Created) -> None:
        handled.set()

    with bus.running():
        eventually(lambda: sleepers(bus_dsn) == 1)
        time.sleep(0.3)  # it has looked once more, and rests
        armed.set()
        assert bus._engine is not None
        bus._engine._fetcher.wake(None)
        assert handled.wait(20)


def test_what_is_due_and_cannot_be_moved_is_not_asked_for_all_the_time(
    bus: Bus, bus_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever renames a subscription, say, keeps all others from moving anything."""
    polls: list[float] = []
    handled = threading.Event()

    def counted(*arguments: Any, **options: Any) -> Any:
        polls.append(time.monotonic())
        return poll(*arguments, **options)

    monkeypatch.setattr(fetcher, "poll", counted)

    @bus.subscribe("orders.*", name="billing")
    def on_order(event: Created) -> None:
        handled.set()

    with psycopg.connect(bus_dsn, autocommit=True) as connection:
        connection.execute("select pg_advisory_lock(1885823605, 0)")
        with bus.running():
            bus.publish(Created(order="a"), delay=0.01)
            eventually(lambda: len(polls) >= 5)
            del polls[:]
            time.sleep(1)
            assert len(polls) < 30
            connection.execute("select pg_advisory_unlock(1885823605, 0)")
            assert handled.wait(20)


def test_what_a_worker_that_stops_had_not_begun_is_handled_by_another_at_once(
    bus: Bus, make_bus: Callable[..., Bus], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that sleeps, with no poll and no round of its own to come."""
    sleepy: list[Link] = []

    def pooled(link: Link) -> bool:
        return threading.current_thread().name == "pgbus-fetcher" and link not in sleepy

    monkeypatch.setattr(Link, "pooled", property(pooled))
    monkeypatch.setattr(fetcher, "SLEEP", 600.0)
    monkeypatch.setattr(rounds, "CALM", 600.0)
    monkeypatch.setattr(rounds, "MOST_CALM", 600.0)
    begun: list[str] = []
    handled: list[str] = []
    go_on, other = threading.Event(), make_bus()

    @bus.subscribe("orders.*", name="billing", concurrency=1)
    def on_order(event: Created) -> None:
        begun.append(event.order)
        assert go_on.wait(60)

    @other.subscribe("orders.*", name="billing")
    def on_order_there(event: Created) -> None:
        handled.append(event.order)

    with bus.running(timeout=60):
        bus.publish_many([Created(order="a"), Created(order="b")])
        eventually(lambda: begun and bus.status("billing")[0].in_flight == 2)
        with other.running():
            assert other._engine is not None
            [subscription] = other._engine._subscriptions
            sleepy.append(other._engine._fetcher._link)
            eventually(lambda: subscription.asleep and not subscription.ready)
            stopping = threading.Thread(target=bus.stop, args=(60,))
            stopping.start()
            eventually(lambda: bus.status("billing")[0].in_flight == 1)
            go_on.set()
            stopping.join()
            eventually(lambda: sorted(begun + handled) == ["a", "b"])


def test_a_retry_in_the_transaction_of_a_batch_rings_a_timer_of_its_own(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetcher, "POLL", 600.0)
    monkeypatch.setattr(fetcher, "SLEEP", 600.0)
    batches: list[list[str]] = []

    @bus.subscribe("orders.*", name="billing", batch=10)
    def on_orders(
        events: list[Created], context: BatchContext, connection: "psycopg.Connection[Any]"
    ) -> None:
        batches.append([event.order for event in events])
        if len(batches) == 1:
            context.retry(0, after=0.3)

    with bus.running():
        bus.publish(Created(order="a"))
        assert bus.wait_idle(20)
    assert batches == [["a"], ["a"]]


def test_a_process_that_cannot_sleep_asks_less_than_once_a_second_either(
    bus: Bus, bus_dsn: str, make_bus: Callable[..., Bus], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Because another sleeps in its place; of what else it handles, it may be the one that does."""
    other = make_bus(lease=3600)
    asked: list[int] = []
    execute = query._execute

    def counted(*arguments: Any) -> Any:
        asked.append(threading.get_ident())
        return execute(*arguments)

    monkeypatch.setattr(query, "_execute", counted)
    for one in (bus, other):
        one.subscribe("invoices.*", name="shared")(lambda event: None)
    other.subscribe("orders.*", name="billing")(lambda event: None)
    with bus.running():
        eventually(lambda: sleepers(bus_dsn) == 1)
        with other.running():
            assert other._engine is not None
            its_fetcher = other._engine._fetcher._thread.ident
            restless = {one.name: one for one in other._engine._subscriptions}["shared"]
            eventually(lambda: restless.poll_after == fetcher.SLEEP)
            del asked[:]
            began = time.monotonic()
            eventually(lambda: sum(thread == its_fetcher for thread in asked) >= 4)
            assert time.monotonic() - began > 3


def test_one_that_nobody_can_wake_is_not_polled_more_often_because_another_is_busy(
    bus: Bus, bus_dsn: str, make_bus: Callable[..., Bus], monkeypatch: pytest.MonkeyPatch
) -> None:
    other, handled = make_bus(), threading.Event()
    polls: list[int] = []

    def counted(*arguments: Any, **options: Any) -> Any:
        polls.append(threading.get_ident())
        return poll(*arguments, **options)

    monkeypatch.setattr(fetcher, "poll", counted)
    bus.subscribe("invoices.*", name="quiet")(lambda event: None)
    other.subscribe("invoices.*", name="quiet")(lambda event: None)

    @other.subscribe("orders.*", name="billing")
    def on_order(event: Created) -> None:
        handled.set()

    with bus.running():
        eventually(lambda: sleepers(bus_dsn) == 1)  # so that the other cannot
        with other.running():
            assert other._engine is not None
            its_fetcher = other._engine._fetcher._thread.ident
            eventually(lambda: sleepers(bus_dsn) == 2)
            del polls[:]
            began = time.monotonic()
            for _ in range(100):
                bus.publish(Created(order="a"))
                assert handled.wait(60)
                handled.clear()
                time.sleep(0.01)
            count = sum(thread == its_fetcher for thread in polls)
            assert count < 20 + 4 * (time.monotonic() - began)


def test_who_pauses_is_not_woken_in_a_workers_place(make_bus: Callable[..., Bus]) -> None:
    bus = make_bus()

    @bus.subscribe("orders.created", name="orders")
    def handle(event: Created) -> None:
        """Is never called."""

    subscription = Subscription(1, bus._definitions["orders"])
    message = Message(1, 0, "{}", "{}", 0, 0, False)
    hold = Hold(Chunk(1, 1, 1, False, [message]), Session(30.0))
    received: list[list[Hold]] = []
    pausing = threading.Thread(target=lambda: subscription.pause(60.0))
    working = threading.Thread(target=lambda: received.append(subscription.receive()))
    for thread in (pausing, working):
        thread.start()
        time.sleep(0.1)  # they wait, one behind the other
    subscription.deliver(Parcel(1, False, lambda: [hold]))
    working.join(5)
    subscription.close()
    pausing.join(5)
    working.join(5)
    assert not pausing.is_alive()
    assert received == [[hold]]

"""Stops and starts that meet: another thread's, a handler's, a signal's, a connection's end."""

import asyncio
import contextlib
import threading
from typing import Any

import psycopg
import pytest

from pgbus import Bus, ConfigurationError, Event
from pgbus.core.demand import Demand
from pgbus.store.leases import Polled
from pgbus.threads import engine
from pgbus.threads.attempt import Attempts
from pgbus.threads.fetcher import Fetcher
from pgbus.threads.keeper import Keeper
from pgbus.threads.link import Link
from pgbus.threads.pool import Pool
from pgbus.threads.session import Session
from pgbus.threads.worker import Worker
from tests.threads.test_stops import threads
from tests.waiting import eventually


class Created(Event, topic="orders.created", key="order"):
    order: str


def subscribe(bus: Bus) -> list[str]:
    """Subscribe with one thread, and return what it handles."""
    handled: list[str] = []

    @bus.subscribe("orders.*", name="billing", concurrency=1)
    def on_order(event: Created) -> None:
        handled.append(event.order)

    return handled


@pytest.mark.parametrize("within", ["a worker", "the keeper"])
def test_a_signals_handler_may_stop_the_bus_that_the_same_thread_starts(
    bus: Bus, monkeypatch: pytest.MonkeyPatch, within: str
) -> None:
    hire, begin = Worker.start, Keeper._begin

    def interrupted_hire(self: Worker) -> None:
        hire(self)
        bus.stop(0.0)

    def interrupted_begin(self: Keeper, session: Session) -> None:
        bus.stop(0.0)
        begin(self, session)

    if within == "a worker":
        monkeypatch.setattr(Worker, "start", interrupted_hire)
    else:
        monkeypatch.setattr(Keeper, "_begin", interrupted_begin)
    handled = subscribe(bus)
    bus.declare()
    starting = threading.Thread(target=bus.start, daemon=True)
    starting.start()
    starting.join(30)
    assert not starting.is_alive()
    eventually(lambda: not threads())
    assert bus.status()[0].workers == 0
    monkeypatch.undo()
    with bus.running():
        bus.publish(Created(order="a"))
        assert bus.wait_idle(20)
    assert handled == ["a"]


def test_a_signals_handler_may_close_the_bus_that_the_same_thread_connects(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = Pool._check

    def interrupted(self: Pool) -> None:
        check(self)
        bus.close()

    monkeypatch.setattr(Pool, "_check", interrupted)
    refusals: list[str] = []

    def publish() -> None:
        with pytest.raises(ConfigurationError, match="closed"):
            bus.publish("orders.created", {"order": "a"})
        refusals.append("closed")

    publishing = threading.Thread(target=publish, daemon=True)
    publishing.start()
    publishing.join(30)
    assert refusals == ["closed"]


def test_what_is_started_while_the_bus_is_being_closed_is_stopped(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    subscribe(bus)
    stop, starts = Bus.stop, [bus.start]

    def met(self: Bus, *timeout: float) -> None:
        stop(self, *timeout)
        while starts:
            meanwhile = threading.Thread(target=starts.pop())
            meanwhile.start()
            meanwhile.join()

    monkeypatch.setattr(Bus, "stop", met)
    bus.close()
    eventually(lambda: not threads())
    with pytest.raises(ConfigurationError, match="closed"):
        bus.start()


def test_a_handler_that_starts_its_bus_holds_up_no_stop(
    bus: Bus, caplog: pytest.LogCaptureFixture
) -> None:
    begun, started = threading.Event(), threading.Event()

    @bus.subscribe("orders.*", name="billing")
    def on_order(event: Created) -> None:
        begun.set()
        eventually(lambda: bus._subscriptions[0].closed)
        bus.start()
        started.set()

    bus.start()
    bus.publish(Created(order="a"))
    assert begun.wait(20)
    bus.stop(timeout=20)
    assert started.is_set()
    assert "outlasted the grace" not in caplog.text
    eventually(lambda: not threads())


@pytest.mark.parametrize("failing", ["the keeper", "a worker"])
def test_a_start_that_fails_leaves_nothing_behind(
    bus: Bus, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    handled = subscribe(bus)
    keep = Keeper.start

    def interrupted(self: Keeper) -> None:
        keep(self)
        raise KeyboardInterrupt

    def refused(self: Worker) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patching:
        if failing == "the keeper":
            patching.setattr(Keeper, "start", interrupted)
        else:
            patching.setattr(Worker, "start", refused)
        with pytest.raises(KeyboardInterrupt):
            bus.start()
    eventually(lambda: not threads())
    assert bus.status()[0].workers == 0

    @bus.subscribe("orders.*", name="shipping")
    def ship(event: Created) -> None:
        """Handles it, once the bus runs."""

    bus.declare()
    bus.publish(Created(order="a"))
    bus.drop_subscription("billing", force=True)
    assert not bus.wait_idle(0.1), "it asks for what it subscribes to now"
    with bus.running():
        assert bus.wait_idle(20)
    assert handled == []


def test_where_the_keeper_gets_no_thread_its_worker_signs_off(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    subscribe(bus)
    start = threading.Thread.start

    def refused(self: threading.Thread) -> None:
        if self.name == "pgbus-keeper":
            raise RuntimeError("can't start new thread")
        start(self)

    with monkeypatch.context() as patching:
        patching.setattr(threading.Thread, "start", refused)
        with pytest.raises(RuntimeError, match="new thread"):
            bus.start()
    assert bus.status()[0].workers == 0
    assert not threads()


def test_what_is_handled_as_the_grace_ends_is_acknowledged(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that is between two events then hands in what it has done."""
    reached, given_up = threading.Event(), threading.Event()
    observe, abandon = Demand.observe, Worker.abandon

    def slow(self: Demand, seconds: float) -> None:  # which comes after the call
        observe(self, seconds)
        reached.set()
        given_up.wait(20)

    def told(self: Worker) -> bool:
        was_handling = abandon(self)
        given_up.set()
        return was_handling

    monkeypatch.setattr(engine, "HANDED_IN", 20.0)
    monkeypatch.setattr(Demand, "observe", slow)
    monkeypatch.setattr(Worker, "abandon", told)
    handled = subscribe(bus)
    bus.start()
    bus.publish(Created(order="a"))
    assert reached.wait(20)
    bus.stop(0.0)
    assert (handled, bus.status()[0].ready) == (["a"], 0)


def test_who_looks_after_the_poll_is_heeded() -> None:
    """The poll's answer is older than what somebody says while it is read."""

    class Subscribed:
        rounds = type("Rounds", (), {"press": lambda _: None})()
        ready = False
        rung = True
        asleep = False

    subscribed = Subscribed()

    class Answer:
        asleep = True

        @property
        def ready(self) -> bool:
            subscribed.ready = True
            return False

    answer: Any = Answer()
    Fetcher._heed(subscribed, answer, 0.0, moved=False)  # type: ignore[arg-type]
    assert subscribed.ready
    Fetcher._heed(subscribed, Polled(1, ready=False, next_due=None, asleep=True), 0.0, moved=False)  # type: ignore[arg-type]
    assert subscribed.ready


def test_a_fetcher_that_connects_as_the_bus_stops_takes_nothing(
    bus: Bus, bus_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would lease for a worker that has signed off."""
    subscribe(bus)
    connection, reached, opened = Link.connection, threading.Event(), threading.Event()

    def late(self: Link) -> "psycopg.Connection[Any]":
        found = connection(self)
        if threading.current_thread().name == "pgbus-fetcher" and armed.is_set():
            reached.set()
            opened.wait(20)
        return found

    armed = threading.Event()
    monkeypatch.setattr(Link, "connection", late)
    bus.start()
    assert bus.wait_idle(20)
    assert bus._engine is not None
    fetcher = bus._engine._fetcher
    armed.set()
    bus.publish(Created(order="a"))
    fetcher.wake("billing")
    assert reached.wait(20)
    monkeypatch.setattr(fetcher._link, "interrupt", lambda: None)  # it has no connection yet
    bus.stop(0.0)
    opened.set()
    fetcher._thread.join(20)
    with psycopg.connect(bus_dsn) as asking:
        assert asking.execute("select count(*) from pgbus.lease").fetchone() == (0,)
    assert not fetcher._thread.is_alive()


def test_a_fetcher_that_was_about_to_look_sleeps_through_no_stop(bus: Bus) -> None:
    subscribe(bus)
    with bus.running():
        assert bus.wait_idle(20)
        assert bus._engine is not None
        fetcher = bus._engine._fetcher

        class Met(threading.Event):
            def clear(self) -> None:
                fetcher._stop.set()
                self.set()
                super().clear()

            def wait(self, timeout: float | None = None) -> bool:
                assert not fetcher._stop.is_set(), "nobody is going to wake it"
                return super().wait(timeout)

        woken, fetcher._wake = fetcher._wake, Met()
        woken.set()
        fetcher._thread.join(20)
        assert not fetcher._thread.is_alive()


def test_no_coroutine_begins_once_the_bus_has_stopped(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []
    reached, opened = threading.Event(), threading.Event()
    call = Attempts.call

    def late(self: Attempts, *arguments: Any) -> None:
        reached.set()
        opened.wait(20)
        call(self, *arguments)

    @bus.subscribe("orders.*", name="billing", concurrency=1)
    async def on_order(event: Created) -> None:
        called.append(event.order)

    monkeypatch.setattr(Attempts, "call", late)
    bus.start()
    bus.publish(Created(order="a"))
    assert reached.wait(20)
    bus.stop(0.0)
    opened.set()
    eventually(lambda: not threads())
    assert called == []
    assert "pgbus-loop" not in {one.name for one in threading.enumerate()}


def test_a_coroutine_that_is_cancelled_cannot_stop_the_bus_either(bus: Bus) -> None:
    begun = threading.Event()
    refusals: list[str] = []

    @bus.subscribe("orders.*", name="billing", concurrency=1)
    async def on_order(event: Created) -> None:
        begun.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:  # as the loop itself ends
            with pytest.raises(ConfigurationError, match="none of them can call it"):
                bus.close()
            refusals.append(event.order)
            raise

    bus.start()
    bus.publish(Created(order="a"))
    assert begun.wait(20)
    bus.stop(0.0)
    assert refusals == ["a"]
    bus.start()
    bus.stop(0.0)

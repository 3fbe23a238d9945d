"""Stops that are asked for wrongly, or interrupted: nothing goes on behind the user's back."""

import re
import threading
from typing import Any

import pytest

from pgbus import Bus, ConfigurationError, Context, Event, Incident, Retry
from pgbus.threads.crew import Crew
from pgbus.threads.listener import Listener
from pgbus.threads.worker import Worker
from tests.waiting import eventually


class Created(Event, topic="orders.created", key="order"):
    order: str


OF_AN_ENGINE = re.compile(r"pgbus-(billing-\d+|fetcher|settler|keeper|listener|watchdog)")


def threads() -> set[str]:
    return {one.name for one in threading.enumerate() if OF_AN_ENGINE.fullmatch(one.name)}


def one_refused(monkeypatch: pytest.MonkeyPatch) -> list[RuntimeError]:
    """Let the next thread of a handler not be started; return what was not refused yet."""
    start = Worker.start
    refusals = [RuntimeError("can't start new thread")]

    def refused(self: Worker) -> None:
        if refusals:
            raise refusals.pop()
        start(self)

    monkeypatch.setattr(Worker, "start", refused)
    return refusals


@pytest.mark.parametrize("timeout", [None, "soon", float("nan")])
@pytest.mark.parametrize("method", ["stop", "running", "run", "wait_idle"])
def test_a_timeout_that_is_none_is_named_and_changes_nothing(
    bus: Bus, method: str, timeout: Any
) -> None:
    handled = threading.Event()

    @bus.subscribe("orders.*", name="billing")
    def on_order(event: Created) -> None:
        handled.set()

    with bus.running():
        call = getattr(bus, method)
        with pytest.raises(ConfigurationError, match="timeout"):
            call(timeout).__enter__() if method == "running" else call(timeout)
        bus.publish(Created(order="a"))
        assert handled.wait(20)


def test_an_interrupted_stop_ends_all_the_same(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while handlers have their grace: they get no more of it."""
    begun, go_on = threading.Event(), threading.Event()

    @bus.subscribe("orders.*", name="billing", concurrency=1)
    def on_order(event: Created) -> None:
        begun.set()
        go_on.wait(20)

    join = Crew.join
    interrupts = [KeyboardInterrupt()]

    def interrupted(self: Crew, deadline: float) -> None:
        if interrupts:
            raise interrupts.pop()
        join(self, deadline)

    monkeypatch.setattr(Crew, "join", interrupted)
    bus.start()
    bus.publish(Created(order="a"))
    assert begun.wait(20)
    with pytest.raises(KeyboardInterrupt):
        bus.stop()
    [status] = bus.status()
    assert (status.workers, status.in_flight, status.ready) == (0, 0, 1)
    go_on.set()
    eventually(lambda: not threads())


def test_a_stopped_bus_waits_for_what_it_subscribes_to_then(bus: Bus) -> None:
    @bus.subscribe("orders.*", name="billing")
    def on_order(event: Created) -> None:
        """Handles it."""

    with bus.running():
        assert bus.wait_idle(20)

    @bus.subscribe("orders.*", name="shipping")
    def ship(event: Created) -> None:
        """Handles it, once the bus runs again."""

    bus.declare()
    bus.publish(Created(order="a"))
    bus.drop_subscription("billing", force=True)
    assert not bus.wait_idle(0.1)


def test_where_no_thread_can_be_started_the_watch_goes_on(
    bus: Bus, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    go_on = threading.Event()
    calls: list[str] = []

    @bus.subscribe("orders.*", name="billing", concurrency=2, timeout=60)
    def on_order(event: Created, context: Context) -> None:
        calls.append(event.order)
        if calls.count(event.order) == 1 and event.order != "c":
            context.extend(0.1)
            go_on.wait(20)

    with bus.running():
        refusals = one_refused(monkeypatch)
        for order in ("a", "b"):
            bus.publish(Created(order=order))
        eventually(lambda: not refusals)
        bus.publish(Created(order="c"))
        assert bus.wait_idle(20)
        # Two that are stuck, and two in their places.
        eventually(lambda: sum(one.startswith("pgbus-billing-") for one in threads()) == 4)
        go_on.set()
    assert sorted(calls) == ["a", "a", "b", "b", "c"]
    assert "a thread could not be replaced" in caplog.text


def test_whom_nobody_could_replace_is_replaced_once_there_are_threads_again(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is but one: no other call that takes too long is going to ask for it."""
    go_on = threading.Event()
    calls: list[str] = []

    @bus.subscribe("orders.*", name="billing", concurrency=1, timeout=60)
    def on_order(event: Created, context: Context) -> None:
        calls.append(event.order)
        if len(calls) == 1:
            context.extend(0.1)
            go_on.wait(20)

    with bus.running():
        refusals = one_refused(monkeypatch)
        bus.publish(Created(order="a"))
        eventually(lambda: len(calls) == 2)
        assert not refusals
        go_on.set()


def test_a_handler_cannot_stop_the_bus_that_is_still_starting(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can begin before ``start`` has returned."""
    start, refused = Listener.start, threading.Event()

    def late(self: Listener) -> None:
        assert refused.wait(20)
        start(self)

    @bus.subscribe("orders.*", name="billing")
    def on_order(event: Created) -> None:
        with pytest.raises(ConfigurationError, match="none of them can call it"):
            bus.stop()
        refused.set()

    bus.declare()
    bus.publish(Created(order="a"))
    monkeypatch.setattr(Listener, "start", late)
    with bus.running():
        assert bus.wait_idle(10)
        assert bus.status("billing")[0].workers == 1, "it runs on"


def test_a_handler_of_a_worker_that_has_just_taken_a_place_cannot_stop_the_bus(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, begun, go_on, refused = Worker.start, *(threading.Event() for _ in range(3))

    def late(self: Worker) -> None:
        start(self)
        if self.number == 2:
            # Its handler has begun, and has all the time to ask.
            assert begun.wait(20)
            threading.Event().wait(0.2)

    @bus.subscribe("orders.*", name="billing", concurrency=1, timeout=60)
    def on_order(event: Created, context: Context) -> None:
        if event.order == "slow":
            if context.attempt == 1:
                context.extend(0.1)
                go_on.wait(20)
            return
        begun.set()
        with pytest.raises(ConfigurationError, match="none of them can call it"):
            bus.stop(0.0)
        refused.set()

    monkeypatch.setattr(Worker, "start", late)
    with bus.running(0.0):
        bus.publish(Created(order="slow"))
        bus.publish(Created(order="quick"))
        assert refused.wait(20)
        go_on.set()


def test_where_no_thread_can_be_started_for_a_coroutine_the_next_call_tries_again(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start
    refusals = [RuntimeError("can't start new thread")]
    attempts: list[int] = []

    def refused(self: threading.Thread) -> None:
        if self.name == "pgbus-loop" and refusals:
            raise refusals.pop()
        start(self)

    @bus.subscribe("orders.*", name="billing", retry=Retry(max_attempts=2, initial=0.01))
    async def on_order(event: Created, context: Context) -> None:
        attempts.append(context.attempt)

    monkeypatch.setattr(threading.Thread, "start", refused)
    with bus.running(0.0):
        bus.publish(Created(order="a"))
        assert bus.wait_idle(10)
    assert attempts == [2]


def test_a_callback_that_blocks_the_watchdog_holds_up_no_stop(bus: Bus) -> None:
    begun, go_on = threading.Event(), threading.Event()

    @bus.on_error
    def tell(incident: Incident) -> None:
        begun.set()
        go_on.wait(20)

    @bus.subscribe("orders.*", name="billing", concurrency=1, timeout=0.1)
    def on_order(event: Created) -> None:
        go_on.wait(20)

    bus.start()
    bus.publish(Created(order="a"))
    assert begun.wait(20)
    stop = threading.Thread(target=bus.stop, args=[0.0])
    stop.start()
    stop.join(10)
    stopped_in_time = not stop.is_alive()
    go_on.set()
    stop.join()
    assert stopped_in_time
    eventually(lambda: not threads())


def test_less_grace_than_none_is_none(bus: Bus) -> None:
    @bus.subscribe("orders.*", name="billing")
    def on_order(event: Created) -> None:
        """Is never called."""

    bus.start()
    bus.stop(-1.0)
    assert bus.status()[0].workers == 0
    assert bus.wait_idle(-1.0)

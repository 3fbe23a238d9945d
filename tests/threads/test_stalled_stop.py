"""A stop while the way to the database is stalled: it must not wait for the watchdog.

What is judged is how long the stop waits for threads, as it asked for it, and not the clock: a busy
machine takes its time over everything else.
"""

import asyncio
import threading
from typing import Any

import pytest

from pgbus import Bus
from pgbus.threads.engine import ENDED
from tests.proxy import FaultProxy
from tests.waiting import eventually

LEASE = 0.6


@pytest.fixture
def unhurried() -> None:
    """Here a stop keeps to its limits."""


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How many seconds this thread waited for others in vain; infinite where it set no limit."""
    waits: list[float] = []
    join, myself = threading.Thread.join, threading.current_thread()

    def watched(thread: threading.Thread, timeout: float | None = None) -> None:
        join(thread, timeout)
        if thread.is_alive() and threading.current_thread() is myself:
            waits.append(float("inf") if timeout is None else timeout)

    monkeypatch.setattr(threading.Thread, "join", watched)
    return waits


@pytest.mark.parametrize("grace", [0.0, 0.5])
def test_a_stalled_link_holds_up_no_stop(way: FaultProxy, waits: list[float], grace: float) -> None:
    with Bus(way.dsn, lease=LEASE) as bus:

        @bus.subscribe("a", name="billing")
        def handle(event: Any) -> None: ...

        bus.start()
        eventually(lambda: way.connections >= 3, message="the bus did not connect")
        way.stall()
        bus.stop(timeout=grace)
        assert sum(waits) <= grace + ENDED
        way.resume()
        bus.start()
        bus.publish("a", {})
        assert bus.wait_idle()


@pytest.mark.parametrize("grace", [0.0, 0.5])
def test_neither_do_handlers_with_it(
    way: FaultProxy, bus_dsn: str, waits: list[float], grace: float
) -> None:
    """One outlasts the grace, one is acknowledged into the stall, a coroutine does not end."""
    stalled, release = threading.Event(), threading.Event()
    began: list[str] = []

    with Bus(way.dsn, lease=LEASE) as bus, Bus(bus_dsn) as publisher:
        _subscribe(bus, began, stalled, release)
        bus.start()
        for topic in ("slow", "quick", "async"):
            publisher.publish(topic, {})
        eventually(lambda: len(began) == 3, message="a handler was not called")
        way.stall()
        stalled.set()
        try:
            bus.stop(timeout=grace)
        finally:
            release.set()
            way.resume()
        assert sum(waits) <= grace + ENDED


def _subscribe(
    bus: Bus, began: list[str], stalled: threading.Event, release: threading.Event
) -> None:
    @bus.subscribe("slow", name="slow")
    def slow(event: Any) -> None:
        began.append("slow")
        release.wait(20)

    @bus.subscribe("quick", name="quick")
    def quick(event: Any) -> None:
        began.append("quick")
        assert stalled.wait(20)

    @bus.subscribe("async", name="sleepy")
    async def sleepy(event: Any) -> None:
        began.append("async")
        try:
            await asyncio.Event().wait()
        finally:
            release.wait(20)  # it holds up the loop though it was cancelled

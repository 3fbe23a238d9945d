"""SystemExit, out of code of the user's in threads of the bus: a failure like any other."""

import asyncio
import json
import threading

import psycopg
import pytest

from pgbus import Bus, Event, Incident, Retry

ONCE = Retry(max_attempts=1)
TOPIC = "orders.created"


class Picky(Event, topic=TOPIC, key="order"):
    order: str
    n: int

    def __post_init__(self) -> None:
        if self.n == 0:
            raise SystemExit


def dead_letters(bus: Bus) -> list[str | None]:
    return [letter.error_type for letter in bus.dead_letters("billing")]


def test_a_types_own_code_that_exits(bus: Bus) -> None:
    handled: list[int] = []

    @bus.subscribe("orders.*", name="billing", concurrency=1, retry=ONCE)
    def on_order(event: Picky) -> None:
        handled.append(event.n)

    with bus.running():
        for n in range(3):
            bus.publish(TOPIC, {"order": "a", "n": n}, key="a")
        assert bus.wait_idle(20)
    assert handled == [1, 2]
    assert dead_letters(bus) == ["SystemExit"]


def test_a_types_own_code_that_exits_over_an_event_of_its_version(
    bus: Bus, caplog: pytest.LogCaptureFixture
) -> None:
    handled: list[int] = []

    @bus.subscribe("orders.*", name="billing", concurrency=1, retry=ONCE)
    def on_order(event: Picky) -> None:
        handled.append(event.n)

    with bus.running():
        with psycopg.connect(bus.dsn, autocommit=True) as connection:
            for n in range(2):
                body, headers = {"order": "a", "n": n}, {"pgbus-topic": TOPIC, "pgbus-version": 1}
                connection.execute(
                    "select pgmq.send('billing', %s::jsonb, %s::jsonb)",
                    [json.dumps(body), json.dumps({**headers, "x-pgmq-group": "a"})],
                )
        assert bus.wait_idle(20)
    assert handled == [1]
    assert dead_letters(bus) == ["SystemExit"]
    assert not [one for one in caplog.records if one.levelname == "CRITICAL"]


def test_an_async_handler_that_exits(bus: Bus) -> None:
    handled: list[int] = []
    incidents: list[Incident] = []
    bus.on_error(incidents.append)

    @bus.subscribe("numbers", name="billing", concurrency=2, retry=ONCE)
    async def on_number(event: int) -> None:
        if event == 0:
            raise SystemExit
        handled.append(event)

    with bus.running():
        for n in range(3):
            bus.publish("numbers", n, key="a")
        assert bus.wait_idle(20)
    assert handled == [1, 2]
    assert dead_letters(bus) == ["SystemExit"]
    assert [one.kind for one in incidents] == ["dead_letter"]


def test_a_task_of_an_async_handler_that_exits(bus: Bus) -> None:
    """It runs on the loop itself; the handlers that others wait for there go on."""
    begun, exited = threading.Event(), threading.Event()
    handled: list[int] = []

    async def leave() -> None:
        exited.set()
        raise SystemExit

    @bus.subscribe("numbers", name="billing", concurrency=2, retry=ONCE)
    async def on_number(event: int) -> None:
        if event == 0:
            begun.set()
            while not exited.is_set():
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.05)
        if event == 1:
            await asyncio.create_task(leave())
        handled.append(event)

    with bus.running():
        bus.publish("numbers", 0, key="a")
        assert begun.wait(20)
        bus.publish("numbers", 1, key="b")
        assert bus.wait_idle(20)
        bus.publish("numbers", 2, key="c")
        assert bus.wait_idle(20)
    assert handled == [0, 2]
    assert dead_letters(bus) == ["SystemExit"]

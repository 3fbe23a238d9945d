"""Handlers that are about to be called as their lease is lost, or the bus stops: they are not."""

import json
import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from pgbus import Bus, Context, Event
from pgbus.threads.session import Session
from pgbus.threads.transaction import Transactions
from pgbus.threads.versions import Versions
from tests.waiting import eventually

TOPIC = "orders.created"
UNKNOWN = 7


class Created(Event, topic=TOPIC, key="order"):
    order: str


class Slow(Event, topic="orders.slow", key="order"):
    order: str

    def __post_init__(self) -> None:
        gates[0].wait()


class Gate:
    """Where a thread of the bus waits, until the test lets it go on."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._opened = threading.Event()

    def wait(self) -> None:
        self.reached.set()
        assert self._opened.wait(20)

    def open(self) -> None:
        self._opened.set()


gates: list[Gate] = []


def subscribe(bus: Bus, kind: str, called: list[object]) -> None:
    subscribe = bus.subscribe("orders.*", name="billing", concurrency=1)

    def plain(event: Created | Slow) -> None:
        called.append(event)

    def asks(event: Created | Slow, context: Context) -> None:
        called.append(event)

    def batch(events: list[Created | Slow]) -> None:
        called.extend(events)

    def transactional(event: Created | Slow, connection: psycopg.Connection[Any]) -> None:
        called.append(event)

    async def asynchronous(event: Created | Slow) -> None:
        called.append(event)

    kinds: dict[str, Callable[..., Any]] = {
        "plain": plain,
        "asks": asks,
        "batch": batch,
        "transactional": transactional,
        "async": asynchronous,
    }
    subscribe(kinds[kind])


def publish_unknown(bus: Bus) -> None:
    headers = {"pgbus-topic": TOPIC, "pgbus-version": UNKNOWN, "x-pgmq-group": "a"}
    with psycopg.connect(bus.dsn, autocommit=True) as connection:
        connection.execute(
            "select pgmq.send('billing', %s::jsonb, %s::jsonb)",
            [json.dumps({"order": "a"}), json.dumps(headers)],
        )


def session(bus: Bus) -> Session:
    assert bus._engine is not None
    return bus._engine._keeper.session


def end(bus: Bus, how: str, gate: Gate) -> None:
    """Lose the lease or stop the bus, then open the gate; return once the event is given back."""
    if how == "lost":
        [subscription] = bus._subscriptions
        session(bus).lose()
        gate.open()
        eventually(lambda: subscription._in_hand == 0)
        return
    workers = [one for one in threading.enumerate() if one.name.startswith("pgbus-billing-")]
    bus.stop(timeout=0)
    gate.open()
    for worker in workers:
        worker.join(20)
        assert not worker.is_alive()


@pytest.mark.parametrize("how", ["lost", "stopped"])
@pytest.mark.parametrize("kind", ["plain", "asks", "batch", "transactional", "async"])
def test_after_the_question_about_an_events_version(
    bus: Bus, monkeypatch: pytest.MonkeyPatch, kind: str, how: str
) -> None:
    gate = Gate()
    called: list[object] = []
    subscribe(bus, kind, called)

    def ask(self: Versions, *arguments: Any) -> Created:
        gate.wait()
        return Created(order="a")

    monkeypatch.setattr(Versions, "decode", ask)
    with bus.running(0.0):
        publish_unknown(bus)
        assert gate.reached.wait(20)
        end(bus, how, gate)
    assert called == []
    assert bus.status()[0].ready == 1


@pytest.mark.parametrize("kind", ["plain", "asks", "batch", "transactional", "async"])
def test_after_a_types_own_code(bus: Bus, kind: str) -> None:
    gate = Gate()
    gates[:] = [gate]
    called: list[object] = []
    subscribe(bus, kind, called)
    with bus.running(0.0):
        bus.publish("orders.slow", {"order": "a"}, key="a")
        assert gate.reached.wait(20)
        end(bus, "stopped", gate)
    assert called == []
    assert bus.status()[0].ready == 1


@pytest.mark.parametrize("how", ["lost", "stopped"])
def test_after_the_connection_of_a_transaction_was_made(
    bus: Bus, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    gate = Gate()
    called: list[object] = []
    subscribe(bus, "transactional", called)
    begin = Transactions.begin

    def begin_late(self: Transactions, session: Session) -> Any:
        connection = begin(self, session)
        gate.wait()
        return connection

    monkeypatch.setattr(Transactions, "begin", begin_late)
    with bus.running(0.0):
        bus.publish(Created(order="a"))
        assert gate.reached.wait(20)
        end(bus, how, gate)
    assert called == []
    assert bus.status()[0].ready == 1

"""Two versions of a service restart in turn: whatever was routed is handled."""

import threading
from collections.abc import Callable

import pytest

from pgbus import Bus, Event
from pgbus.model.envelope import Receipt
from tests.waiting import eventually


class Placed(Event, topic="orders.placed", key="order"):
    order: str
    n: int = 0


class Paid(Event, topic="orders.paid", key="order"):
    order: str
    n: int = 0


class Shipped(Event, topic="orders.shipped", key="order"):
    order: str
    n: int = 0


class Traffic:
    """A publisher that never rests, of the event that both versions know."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.receipts: list[Receipt] = []

    def __enter__(self) -> "Traffic":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def flows(self) -> None:
        """Wait for some more."""
        wanted = len(self.receipts) + 20
        eventually(lambda: len(self.receipts) >= wanted)

    def _run(self) -> None:
        while not self._stop.wait(0.001):
            n = len(self.receipts)
            self.receipts.append(self._bus.publish(Paid(order=f"o{n % 5}", n=n)))


@pytest.fixture
def handled() -> list[Event]:
    return []


@pytest.fixture
def versions(
    make_bus: Callable[..., Bus], handled: list[Event]
) -> tuple[Callable[[], Bus], Callable[[], Bus]]:
    """How to make a process of the first and of the second version."""

    def first() -> Bus:
        bus = make_bus()

        @bus.subscribe("orders.placed", "orders.paid", name="billing", concurrency=2)
        def on_order(event: Placed | Paid) -> None:
            handled.append(event)

        return bus

    def second() -> Bus:
        bus = make_bus()

        @bus.subscribe("orders.paid", "orders.shipped", name="billing", concurrency=2)
        def on_order(event: Paid | Shipped) -> None:
            handled.append(event)

        return bus

    return first, second


def test_a_rolling_restart_loses_nothing(
    bus: Bus, handled: list[Event], versions: tuple[Callable[[], Bus], Callable[[], Bus]]
) -> None:
    first, second = versions
    published: list[Receipt] = []

    def publish_all(n: int) -> list[int]:
        events = [Placed(order="a", n=n), Paid(order="a", n=10_000 + n), Shipped(order="a", n=n)]
        receipts = bus.publish_many(events)
        published.extend(receipts)
        return [receipt.queues for receipt in receipts]

    def arrive(*events: Event) -> None:
        # Before anybody stops: what no live worker knows would rightly become a dead letter.
        eventually(lambda: set(events) <= set(handled), 30, f"{events} did not arrive")

    old, new = first(), second()
    with old.running(), Traffic(bus) as traffic:
        assert publish_all(1) == [1, 1, 0]
        new.start()
        assert publish_all(2) == [1, 1, 1]
        arrive(Placed(order="a", n=1), Placed(order="a", n=2), Shipped(order="a", n=2))
        old.stop()
        assert publish_all(3) == [1, 1, 1]  # nobody knows `placed` any more: a dead letter
        arrive(Shipped(order="a", n=3))
        old.start()
        assert publish_all(4) == [1, 1, 1]
        arrive(Placed(order="a", n=4), Shipped(order="a", n=4))
        new.stop()
        assert publish_all(5) == [1, 1, 1]
        traffic.flows()
        new.start()
        assert publish_all(6) == [1, 1, 1]
        arrive(Placed(order="a", n=6), Shipped(order="a", n=6))
        old.stop()
        new.stop()
        new.start()
        assert publish_all(7) == [0, 1, 1]
        traffic.flows()
    assert new.wait_idle(20)

    letters = list(new.dead_letters("billing"))
    stored = sum(receipt.queues for receipt in published + traffic.receipts)
    assert all(receipt.queues == 1 for receipt in traffic.receipts)
    assert len(handled) + len(letters) == stored
    assert {letter.topic for letter in letters} <= {"orders.placed", "orders.shipped"}
    paid = [event for event in handled if isinstance(event, Paid)]
    assert len(paid) == len(traffic.receipts) + 7
    for key in range(5):
        numbers = [event.n for event in paid if event.order == f"o{key}"]
        assert numbers == sorted(numbers)

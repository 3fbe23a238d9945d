"""Keys that cannot be had stand not between others and their handler, nor keep a bus busy."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import psycopg
import pytest

from pgbus import Bus, Event
from pgbus.core import newest, rounds, walk
from pgbus.core.walk import Step
from pgbus.store import leases, query
from pgbus.store.leases import Take, Taken
from pgbus.threads import fetcher
from pgbus.threads.subscription import Subscription
from tests.threads.asleep import sleepers
from tests.waiting import eventually

CROWD = 1_000


class Created(Event, topic="orders.created", key="order"):
    order: str


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    """The steps of all takes; of 50 lanes and more, so that the crowd is one."""
    monkeypatch.setattr(walk, "MOST_VISITS", 50)
    monkeypatch.setattr(newest, "RECENT", 10)
    steps: list[Step] = []

    def take(connection: "psycopg.Connection[Any]", order: Take) -> Taken:
        steps.append(order.step)
        return leases.take(connection, order)

    monkeypatch.setattr(fetcher, "take", take)
    return steps


DEAD_LETTERS = """
    insert into pgmq.q_billing_dlq (vt, message, headers)
    select now(), '{}', jsonb_build_object('id', lpad(n::text, 32, '0')::uuid, 'pgbus-dead',
        jsonb_build_object('msg_id', -n, 'lane', hashtextextended('parked' || n, 0)))
    from generate_series(1, %s) n
"""
BEHIND_THEM = """
    insert into pgmq.q_billing (vt, message, headers)
    select now(), jsonb_build_object('order', 'parked' || n),
        jsonb_build_object('x-pgmq-group', 'parked' || n, 'pgbus-topic', 'orders.created')
    from generate_series(1, %s) n
"""


@pytest.fixture
def orders(bus: Bus, bus_dsn: str) -> deque[str]:
    """What a subscription handles, with many keys parked."""
    orders: deque[str] = deque()

    @bus.subscribe("orders.*", name="billing", on_exhausted="park")
    def on_order(event: Created) -> None:
        orders.append(event.order)

    bus.declare()
    with psycopg.connect(bus_dsn, autocommit=True) as connection:
        connection.execute(DEAD_LETTERS, [CROWD])
        connection.execute(BEHIND_THEM, [CROWD])
    return orders


def settled_down(dsn: str, steps: list[Step]) -> None:
    """Wait until the bus sleeps, having gone round the crowd."""
    eventually(lambda: sleepers(dsn) == 1 and any(step.newest for step in steps))


@pytest.fixture
def calm(monkeypatch: pytest.MonkeyPatch) -> None:
    """No round begins where nothing presses."""
    monkeypatch.setattr(rounds, "CALM", 1e9)
    monkeypatch.setattr(rounds, "MOST_CALM", 1e9)


@contextmanager
def at_rest(bus: Bus, dsn: str, steps: list[Step]) -> Iterator[Subscription]:
    """Run the bus, and yield its subscription once the bus sleeps and looks for nothing more."""
    with bus.running():
        settled_down(dsn, steps)
        assert bus._engine is not None
        [subscription] = bus._engine._subscriptions
        eventually(lambda: not subscription.ready)
        yield subscription


def wake(bus: Bus) -> None:
    """Have the bus look, as if somebody had told that something came."""
    assert bus._engine is not None
    bus._engine._fetcher.wake("billing")


@pytest.mark.usefixtures("calm")
def test_new_events_are_handled_without_going_round_the_crowd(
    bus: Bus,
    bus_dsn: str,
    steps: list[Step],
    orders: deque[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rounds, "PRESSED", 1e9)
    with bus.running():
        settled_down(bus_dsn, steps)
        bus.publish(Created(order="first"))
        eventually(lambda: "first" in orders)
        eventually(lambda: steps[-1].newest)
        del steps[:]
        for number in range(30):
            bus.publish(Created(order=str(number)))
            eventually(lambda: str(number) in orders)  # noqa: B023
    assert {step.newest for step in steps} == {True}
    assert list(orders) == ["first", *map(str, range(30))]


@pytest.mark.usefixtures("calm")
def test_a_key_of_the_crowd_that_is_let_go_is_handled(
    bus: Bus, bus_dsn: str, steps: list[Step], orders: deque[str]
) -> None:
    with bus.running():
        settled_down(bus_dsn, steps)
        assert bus.drop_dead_letters("billing", [UUID(f"{500:032}")]) == 1
        eventually(lambda: list(orders) == ["parked500"])


FIRST_OF_THEM = """
    select substr(key, 7)::int, hashtextextended(key, 0) as lane
    from (select headers ->> 'x-pgmq-group' as key from pgmq.q_billing) as waiting
    order by lane limit 1
"""


@pytest.mark.usefixtures("calm")
def test_a_key_that_is_let_go_of_behind_a_round_of_the_crowd_is_handled(
    bus: Bus, bus_dsn: str, steps: list[Step], orders: deque[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By another round, without a poll."""
    monkeypatch.setattr(fetcher, "SLEEP", 1e9)
    with psycopg.connect(bus_dsn) as connection:
        row = connection.execute(FIRST_OF_THEM).fetchone()
    assert row is not None
    first, lane = row
    released = threading.Event()

    def take(connection: "psycopg.Connection[Any]", order: Take) -> Taken:
        step = order.step
        is_past = not step.by_arrival and step.start > lane
        if asked.is_set() and is_past and not released.is_set():
            assert bus.drop_dead_letters("billing", [UUID(f"{first:032}")]) == 1
            eventually(lambda: subscription.rounds.pressed)
            released.set()
        steps.append(step)
        return leases.take(connection, order)

    monkeypatch.setattr(fetcher, "take", take)
    asked = threading.Event()
    with at_rest(bus, bus_dsn, steps) as subscription:
        asked.set()
        wake(bus)
        eventually(lambda: list(orders) == [f"parked{first}"])
    assert released.is_set()


THEIR_LANES = """
    select hashtextextended(headers ->> 'x-pgmq-group', 0) from pgmq.q_billing
"""
ONE_OF_THE_FIRST = """
    select 'late' || n from generate_series(1, 100) n
    order by hashtextextended('late' || n, 0) limit 1
"""


@pytest.mark.usefixtures("calm")
def test_what_is_published_late_in_a_round_of_the_crowd_does_not_wait_for_the_next(
    bus: Bus, bus_dsn: str, steps: list[Step], orders: deque[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "PRESSED", 1e9)
    monkeypatch.setattr(fetcher, "SLEEP", 1e9)
    with psycopg.connect(bus_dsn) as connection:
        lanes = [lane for (lane,) in connection.execute(THEIR_LANES)]
        late = connection.execute(ONE_OF_THE_FIRST).fetchone()
    assert late is not None
    asked, published, ends = threading.Event(), threading.Event(), False

    def take(connection: "psycopg.Connection[Any]", order: Take) -> Taken:
        nonlocal ends
        taken = leases.take(connection, order)
        if not order.step.by_arrival:
            resume = taken.resume
            ends = resume is not None and sum(lane >= resume for lane in lanes) < 50
        elif ends and asked.is_set():
            asked.clear()
            bus.publish(Created(order=late[0]))
            eventually(lambda: subscription.rounds.pressed)
            published.set()
        steps.append(order.step)
        return taken

    monkeypatch.setattr(fetcher, "take", take)
    with at_rest(bus, bus_dsn, steps) as subscription:
        asked.set()
        # As if all that the last one took was over: this one is due at once.
        subscription.rounds = rounds.Rounds()
        wake(bus)
        eventually(lambda: list(orders) == [*late])
    assert published.is_set()


def test_idle_beside_a_crowd_a_bus_asks_less_than_once_a_second(
    bus: Bus, bus_dsn: str, orders: deque[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            asked.append(time.monotonic())
            return function(*arguments)

        return call

    monkeypatch.setattr(query, "_execute", counted(query._execute))
    monkeypatch.setattr(fetcher, "take", counted(leases.take))
    monkeypatch.setattr(fetcher, "SLEEP", fetcher.SLEEP / 5)
    monkeypatch.setattr(rounds, "CALM", rounds.CALM / 5)
    with bus.running():
        eventually(lambda: sleepers(bus_dsn) == 1 and time.monotonic() - asked[-1] > 0.3)
        del asked[:]
        eventually(lambda: len(asked) >= 12)
        # Five times as fast as else: a poll every other second, a look every fourth, and perhaps a
        # heartbeat with what goes with it.
        assert asked[11] - asked[0] > 11 / 5, asked
    assert not orders

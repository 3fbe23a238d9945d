"""Settlements amid a key's events that are sent twice, or refused: its order still holds."""

import threading
import time
from collections.abc import Callable

import psycopg
import pytest

from pgbus import Bus, Context, Event, Retry
from pgbus.threads import worker
from tests.proxy import FaultProxy
from tests.waiting import eventually

SLOW = 0.02
"""Seconds of a call after which what is done of a chunk is settled apart."""


class Created(Event, topic="orders.created", key="order"):
    order: str
    number: int


def publish(bus: Bus, count: int) -> None:
    bus.publish_many([Created(order="a", number=number) for number in range(count)])


def in_hand(bus: Bus) -> tuple[int, int]:
    assert bus._engine is not None
    [subscription] = bus._engine._subscriptions
    return subscription._in_hand, subscription._suspects


def test_what_a_handler_publishes_is_there_once_though_the_reply_to_its_settlement_is_lost(
    make_bus: Callable[..., Bus], way: FaultProxy
) -> None:
    """The rest of the chunk keeps its lease: that the lease is there says nothing."""
    outside = make_bus()
    outside.subscribe("orders.handled", name="handled")(print)
    outside.declare()
    with Bus(way.dsn) as bus:

        @bus.subscribe("orders.created", name="billing")
        def on_order(event: Created, context: Context) -> None:
            if event.number == 0:
                way.lose_reply()
            context.publish("orders.handled", event.number)
            time.sleep(SLOW)

        bus.declare()
        publish(outside, 4)
        with bus.running():
            assert bus.wait_idle(20)
    assert way.lost_replies == 1
    [handled] = [one for one in outside.status() if one.name == "handled"]
    assert handled.ready == 4


def test_nothing_behind_an_event_is_handled_before_what_it_published_has_found_a_way(
    make_bus: Callable[..., Bus],
) -> None:
    bus = make_bus(on_unroutable="raise")
    handled: list[tuple[int, int]] = []

    @bus.subscribe(
        "orders.created",
        name="billing",
        retry=Retry(max_attempts=2, initial=0.01),
        on_exhausted="skip",
    )
    def on_order(event: Created, context: Context) -> None:
        handled.append((event.number, context.attempt))
        if event.number == 1:
            context.publish("nowhere.at.all", 1)

    bus.declare()
    publish(bus, 4)
    with bus.running():
        assert bus.wait_idle(20)
        eventually(lambda: in_hand(bus) == (0, 0))
    assert handled == [(0, 1), (1, 1), (1, 2), (2, 1), (3, 1)]


REFUSE = """
    create sequence public.refusals;
    create function public.refuse() returns trigger language plpgsql as $$
    begin
        if old.message ->> 'number' = '1' and nextval('public.refusals') = 1 then
            raise exception 'no';
        end if;
        return old;
    end $$;
    create trigger refuse before delete on pgmq.q_billing
        for each row execute function public.refuse();
"""


def test_while_a_worker_goes_on_with_a_key_nobody_else_gets_it(
    bus: Bus, bus_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database refuses to settle an event while the next of its key is being handled."""
    monkeypatch.setattr(worker, "FLUSH", 1.0)
    handled: list[int] = []
    busy = threading.Lock()
    together: list[int] = []

    @bus.subscribe("orders.created", name="billing", concurrency=4)
    def on_order(event: Created, context: Context) -> None:
        if not busy.acquire(blocking=False):
            together.append(event.number)
            return
        handled.append(event.number)
        if event.number == 1 and handled.count(1) == 1:
            time.sleep(1.2)  # so that it is settled with the one before, apart from the rest
        if event.number == 2 and handled.count(2) == 1:
            eventually(lambda: context.lease_lost)
            time.sleep(0.1)  # somebody else would have come by now
        busy.release()

    bus.declare()
    with psycopg.connect(bus_dsn, autocommit=True) as sql:
        sql.execute(REFUSE)
    publish(bus, 4)
    with bus.running():
        assert bus.wait_idle(20)
        eventually(lambda: in_hand(bus) == (0, 0))
    assert not together
    assert handled == [0, 1, 2, 0, 1, 2, 3]  # what was to be settled together comes together

"""Calls of ``publish_many`` that are encoded while the server stores what stands before."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg import sql

from pgbus import Bus, Event, Outgoing, PayloadError, Unroutable
from pgbus.threads.publisher import PART

MANY = 4 * PART + 7


class Created(Event, topic="orders.created", key="order"):
    order: str
    n: int = 0


@pytest.fixture
def declared(bus: Bus) -> Bus:
    declare(bus)
    return bus


def declare(bus: Bus) -> None:
    @bus.subscribe("orders.*", name="billing")
    def on_order(event: Created) -> None: ...

    bus.declare()


def numbers(dsn: str, name: str = "billing") -> list[int]:
    with psycopg.connect(dsn) as connection:
        query = sql.SQL("select (message ->> 'n')::int from pgmq.{} order by msg_id")
        rows = connection.execute(query.format(sql.Identifier(f"q_{name}"))).fetchall()
    return [n for (n,) in rows]


def events(count: int = MANY) -> list[Event | Outgoing]:
    return [Created(order=f"o{n % 10}", n=n) for n in range(count)]


@pytest.mark.parametrize("pipeline", [True, False], ids=["libpq of 14", "older libpq"])
def test_all_of_it_is_stored_in_its_order(
    declared: Bus, bus_dsn: str, monkeypatch: pytest.MonkeyPatch, pipeline: bool
) -> None:
    if not pipeline:
        monkeypatch.setattr(psycopg.capabilities, "has_pipeline", lambda: False)
        monkeypatch.delattr(psycopg.Connection, "pipeline")
    for _ in range(3):  # the first has nothing to remember
        receipts = declared.publish_many(events())
        assert [one.queues for one in receipts] == [1] * MANY
        ids = [one.id for one in receipts]
        assert ids == sorted(set(ids))
    assert numbers(bus_dsn) == list(range(MANY)) * 3


@pytest.mark.parametrize("place", [0, PART, MANY - 1])
def test_a_fault_is_told_by_its_place_and_nothing_is_stored(
    declared: Bus, bus_dsn: str, place: int
) -> None:
    declared.publish(Created(order="a", n=-1))
    items = events()
    items[place] = Outgoing("orders.created", "\0")
    with pytest.raises(PayloadError, match=f"^item {place + 1}: ") as caught:
        declared.publish_many(items)
    assert caught.value.item == place
    assert numbers(bus_dsn) == [-1]
    declared.publish_many(events())
    assert numbers(bus_dsn) == [-1, *range(MANY)]


def test_a_binding_that_came_meanwhile_counts(
    declared: Bus, make_bus: Callable[..., Bus], bus_dsn: str
) -> None:
    declared.publish_many(events())
    later = make_bus()

    @later.subscribe("orders.#", name="audit")
    def on_order(event: Created) -> None: ...

    later.declare()
    assert [one.queues for one in declared.publish_many(events())] == [2] * MANY
    assert numbers(bus_dsn, "audit") == list(range(MANY))


@pytest.mark.parametrize("place", [0, MANY - 1])
def test_what_is_not_plain_or_not_known_takes_the_rest_along(
    declared: Bus, bus_dsn: str, place: int
) -> None:
    declared.publish_many(events())
    for odd in (
        Outgoing("orders.other", Created(order="a", n=-1)),
        Outgoing("orders.created", Created(order="a", n=-1), delay=3600),
    ):
        items = events()
        items[place] = odd
        assert [one.queues for one in declared.publish_many(items)] == [1] * MANY
    stored = numbers(bus_dsn)
    assert len(stored) == 3 * MANY - 1
    assert stored.count(-1) == 1


def test_nothing_of_it_is_stored_where_one_leads_nowhere(
    make_bus: Callable[..., Bus], bus_dsn: str
) -> None:
    bus = make_bus(on_unroutable="raise")
    declare(bus)
    bus.publish_many(events())
    for _ in range(2):
        with pytest.raises(Unroutable, match="matches nowhere;"):
            bus.publish_many([*events(), Outgoing("nowhere", 1)])
    assert numbers(bus_dsn) == list(range(MANY))


def test_a_call_that_has_begun_asks_for_no_second_connection(
    declared: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where types are to be recorded again: others like it may have all there are."""
    declared.publish_many(events())
    encoder, pool, contracts = declared._publisher._encoder, declared._pool, declared._contracts
    encode, lend = encoder.encode, pool._lend
    lent: list[object] = []

    def an_hour_later(*arguments: Any, **options: Any) -> Any:
        contracts.published = set()
        return encode(*arguments, **options)

    def counted(within: float | None) -> Any:
        lent.append(within)
        return lend(within)

    monkeypatch.setattr(encoder, "encode", an_hour_later)
    monkeypatch.setattr(pool, "_lend", counted)
    declared.publish_many(events())
    assert len(lent) == 1
    assert not contracts.published
    monkeypatch.undo()
    declared.publish_many(events())
    assert contracts.published == {Created}

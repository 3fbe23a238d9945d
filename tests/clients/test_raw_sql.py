"""Messages that no client library would send, sent by plain SQL."""

import json
from collections import defaultdict
from typing import Any

import psycopg
import pytest

from pgbus import Bus, Context, Event
from pgbus.threads import link

GROUP = "x-pgmq-group"

BODIES: list[Any] = [
    None,
    True,
    0,
    -1.5,
    2**63,
    2**64,
    12345678901234567890123,
    10**300,
    "",
    "text",
    "\u2028 \U0001f600 ä",
    [],
    [None, 1, "x", {}],
    {},
    {"": {"": [[[]]]}},
    {"type": "orders.created", "order": 1},
]
HEADERS: list[Any] = [
    None,
    True,
    3,
    "text",
    GROUP,
    [],
    [GROUP, "k"],
    [{GROUP: "k"}],
    {},
    {GROUP: None},
    {GROUP: {"a": 1}},
    {"id": "no uuid", "type": 3, "pgbus-topic": ["a"], "pgbus-version": "2", "time": "yesterday"},
    {"pgbus-dead": {"error": "none"}, "pgbus-else": 1},
]


class Created(Event, topic="orders.created", key="order"):
    order: str


def send(sql: psycopg.Connection, queue: str, body: Any, headers: Any = None) -> int:
    """Send JSON, given as Python; ``None`` is JSON's null, for headers too."""
    row = sql.execute(
        "select pgmq.send(%s, %s::jsonb, %s::jsonb)",
        (queue, json.dumps(body), json.dumps(headers)),
    ).fetchone()
    assert row is not None
    return int(row[0])


def test_any_json_is_a_body(bus: Bus, sql: psycopg.Connection) -> None:
    seen: list[Any] = []

    @bus.subscribe("#", name="all", concurrency=1)
    def on_anything(event: Any) -> None:
        seen.append(event)

    bus.declare()
    for body in BODIES:
        sql.execute("select pgmq.send('all', %s::jsonb)", (json.dumps(body),))
    with bus.running():
        assert bus.wait_idle()
    # Without groups there is no order.
    assert sorted(map(repr, seen)) == sorted(map(repr, BODIES))


@pytest.mark.parametrize("headers", HEADERS, ids=json.dumps)
def test_any_json_is_a_header(bus: Bus, sql: psycopg.Connection, headers: Any) -> None:
    seen: list[tuple[Any, Context]] = []

    @bus.subscribe("#", name="all")
    def on_anything(event: Any, context: Context) -> None:
        seen.append((event, context))

    bus.declare()
    send(sql, "all", {"n": 1}, headers)
    with bus.running():
        assert bus.wait_idle()
    [(event, context)] = seen
    assert event == {"n": 1}
    assert context.id is None
    assert context.topic is None
    group = headers.get(GROUP) if isinstance(headers, dict) else None
    assert context.key == (None if group is None else json.dumps(group))
    assert context.headers == {}


@pytest.mark.parametrize("headers", HEADERS, ids=json.dumps)
def test_a_dead_letter_keeps_any_headers(bus: Bus, sql: psycopg.Connection, headers: Any) -> None:
    seen: list[Created] = []

    @bus.subscribe("orders.*", name="billing")
    def on_order(event: Created) -> None:
        seen.append(event)

    bus.declare()
    send(sql, "billing", ["no", "order"], headers)
    send(sql, "billing", {"order": "a"}, headers)
    with bus.running():
        assert bus.wait_idle()
        assert seen == [Created(order="a")]
        [letter] = bus.dead_letters("billing")
        assert letter.body == ["no", "order"]
        assert letter.error_type == "PayloadError"
    assert bus.redrive("billing") == 1
    row = sql.execute("select message, headers from pgmq.q_billing").fetchone()
    assert row == (["no", "order"], headers)


def test_a_typed_handler_gets_what_fits_and_the_rest_is_buried(
    bus: Bus, sql: psycopg.Connection
) -> None:
    seen: list[str] = []

    @bus.subscribe("orders.*", name="billing")
    def on_order(event: Created) -> None:
        seen.append(event.order)

    bus.declare()
    for number, body in enumerate(BODIES):
        send(sql, "billing", body, {GROUP: "k"})
        send(sql, "billing", {"order": f"{number}", "unknown": [1]}, {GROUP: "k"})
    with bus.running():
        assert bus.wait_idle()
    assert seen == [f"{number}" for number in range(len(BODIES))]
    assert [letter.body for letter in bus.dead_letters("billing")] == BODIES


def test_a_body_nested_too_deep_is_buried(bus: Bus, sql: psycopg.Connection) -> None:
    seen: list[Any] = []

    @bus.subscribe("#", name="all")
    def on_anything(event: Any) -> None:
        seen.append(event)

    bus.declare()
    for depth in (512, 5_000):
        sql.execute(
            "select pgmq.send('all', (repeat('[', %(n)s) || repeat(']', %(n)s))::jsonb,"
            """ '{"x-pgmq-group": "k"}'::jsonb)""",
            {"n": depth},
        )
    send(sql, "all", "next", {GROUP: "k"})
    with bus.running():
        assert bus.wait_idle()
    assert seen[-1] == "next"
    assert len(seen) == 2
    [letter] = bus.dead_letters("all")
    assert "nested too deep" in letter.error


def test_messages_without_a_body_are_buried(bus: Bus, sql: psycopg.Connection) -> None:
    seen: list[Any] = []

    @bus.subscribe("#", name="all")
    def on_anything(event: Any) -> None:
        seen.append(event)

    bus.declare()
    for key in ("k", "l", "m"):
        for _ in range(2):
            sql.execute(
                "select pgmq.send('all', null::jsonb, %s::jsonb)", (json.dumps({GROUP: key}),)
            )
    with bus.running():
        assert bus.wait_idle(20)
        for key in ("k", "l", "m"):
            send(sql, "all", key, {GROUP: key})
        assert bus.wait_idle(20)
    assert sorted(seen) == ["k", "l", "m"]
    assert [letter.body for letter in bus.dead_letters("all")] == [None] * 6


def test_a_body_that_postgres_cannot_read_back_is_buried(
    bus: Bus, sql: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """81 KB go in, 2 KB are stored, and every attempt to make text of them fails."""
    # That is seconds of work for the server, and on a busy machine more than a stalled link gets.
    monkeypatch.setattr(link, "STALL", 120.0)
    seen: dict[str, list[int]] = defaultdict(list)

    @bus.subscribe("#", name="all")
    def on_anything(event: int, context: Context) -> None:
        seen[context.key or ""].append(event)

    bus.declare()
    for n in range(4):
        for key in ("k", "l"):
            send(sql, "all", n, {GROUP: key})
        if n == 1:
            sql.execute(
                "select pgmq.send('all', ('[' || repeat('1e131071,', 8999) || '1]')::jsonb,"
                """ '{"x-pgmq-group": "k"}'::jsonb)"""
            )
    with bus.running():
        assert bus.wait_idle(100)
    assert seen == {"k": [0, 1, 2, 3], "l": [0, 1, 2, 3]}
    [letter] = bus.dead_letters("all")
    assert letter.key == "k"


@pytest.mark.parametrize("group", ["", "7", 7, 1.5, True, "ä" * 1000, " "])
def test_whatever_the_group_its_messages_keep_their_order(
    bus: Bus, sql: psycopg.Connection, group: object
) -> None:
    seen: list[int] = []
    keys = set()

    @bus.subscribe("#", name="all")
    def on_anything(event: int, context: Context) -> None:
        seen.append(event)
        keys.add(context.key)

    bus.declare()
    with bus.running():
        for n in range(40):
            send(sql, "all", n, {GROUP: group})
        assert bus.wait_idle()
    assert seen == list(range(40))

"""The pgmq Python client sends and pgbus delivers; pgbus publishes and the client sees it."""

import time
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from pgmq import Message, PGMQueue

from pgbus import Bus, Context, Event, Retry
from tests.waiting import eventually

QUICK = Retry(initial=0.01, maximum=0.02)
GROUP = "x-pgmq-group"


class Created(Event, topic="orders.created", key="order"):
    order: str
    n: int = 0


class Cancelled(Event, topic="orders.cancelled", key="order"):
    order: str
    reason: str


def messages(client: PGMQueue, queue: str, quantity: int = 100) -> list[Message]:
    found = client.read(queue, vt=1, qty=quantity)
    assert isinstance(found, list)
    return found


def test_a_plain_message_carries_nothing_but_its_body(
    bus: Bus, client: PGMQueue, sql: psycopg.Connection
) -> None:
    seen: list[tuple[dict[str, Any], Context]] = []

    @bus.subscribe("orders.*", name="billing")
    def on_order(event: dict[str, Any], context: Context) -> None:
        seen.append((event, context))

    bus.declare()
    body = {"order": "17", "lines": [{"sku": "ä", "price": None}], "paid": False}
    client.send("billing", body)
    enqueued_at = sql.execute("select enqueued_at from pgmq.q_billing").fetchone()
    with bus.running():
        assert bus.wait_idle()

    [(event, context)] = seen
    assert event == body
    assert context.id is None
    assert context.topic is None
    assert context.key is None
    assert context.headers == {}
    assert context.correlation_id is None
    assert context.causation_id is None
    assert context.attempt == 1
    assert context.subscription == "billing"
    assert (context.published_at,) == enqueued_at


def test_a_message_carries_the_headers_that_it_has(bus: Bus, client: PGMQueue) -> None:
    seen: list[Context] = []

    @bus.subscribe("#", name="billing")
    def on_order(event: Any, context: Context) -> None:
        seen.append(context)

    with bus.running():
        client.send(
            "billing",
            {},
            {
                "id": "01890a5d-ac96-774b-bcce-b302099a8057",
                "type": "orders.created",
                "time": "2024-02-29T12:00:00Z",
                "correlationid": "c",
                GROUP: "k",
                "tenant": {"id": 7},
            },
        )
        eventually(lambda: seen)

    [context] = seen
    assert str(context.id) == "01890a5d-ac96-774b-bcce-b302099a8057"
    assert context.topic == "orders.created"
    assert context.key == "k"
    assert context.published_at == datetime(2024, 2, 29, 12, tzinfo=UTC)
    assert context.correlation_id == "c"
    assert context.headers == {"tenant": {"id": 7}}


@pytest.mark.parametrize("way", ["send", "send_batch", "send_topic", "send_batch_topic"])
def test_whatever_the_call_groups_keep_their_order(bus: Bus, client: PGMQueue, way: str) -> None:
    seen: dict[str | None, list[int]] = defaultdict(list)
    failed: set[tuple[str | None, int]] = set()

    @bus.subscribe("orders.*", name="billing", retry=QUICK)
    def on_order(event: dict[str, int], context: Context) -> None:
        one = (context.key, event["n"])
        if event["n"] % 7 == 3 and one not in failed:
            failed.add(one)
            raise RuntimeError("the first time")
        seen[context.key].append(event["n"])

    bus.declare()
    keys = [f"k{number % 5}" for number in range(100)]
    bodies = [{"n": number} for number in range(100)]
    headers: list[dict[str, Any]] = [{GROUP: key} for key in keys]
    with bus.running():
        if way == "send_batch":
            client.send_batch("billing", bodies, headers)
        elif way == "send_batch_topic":
            client.send_batch_topic("orders.created", bodies, headers)
        for body, header in zip(bodies, headers, strict=True):
            if way == "send":
                client.send("billing", body, header)
            elif way == "send_topic":
                # Without a delay, this call of pgmq 1.1.4 names a function that there is not.
                client.send_topic("orders.created", body, header, delay=0)
        assert bus.wait_idle()

    assert len(failed) > 10
    assert seen == {f"k{key}": list(range(key, 100, 5)) for key in range(5)}


def test_messages_of_one_group_from_many_clients_come_in_order(
    make_bus: Callable[..., Bus], client: PGMQueue
) -> None:
    """pgbus and pgmq publish to the same keys in turn; two buses consume."""
    seen: list[int] = []

    def on_order(event: dict[str, int]) -> None:
        seen.append(event["n"])

    buses = [make_bus(), make_bus()]
    for bus in buses:
        bus.subscribe("orders.#", name="billing")(on_order)
        bus.start()
    for n in range(0, 200, 2):
        buses[0].publish("orders.created", {"n": n}, key="k")
        client.send_topic("orders.created", {"n": n + 1}, {GROUP: "k"}, delay=0)
    assert buses[0].wait_idle()
    assert seen == list(range(200))


def test_a_delayed_message_waits_and_its_group_behind_it(bus: Bus, client: PGMQueue) -> None:
    seen: dict[str, float] = {}
    begun = time.monotonic()

    @bus.subscribe("#", name="billing")
    def on_order(event: dict[str, str]) -> None:
        seen[event["name"]] = time.monotonic() - begun

    with bus.running():
        client.send("billing", {"name": "in an hour"}, {GROUP: "h"}, delay=3600)
        client.send("billing", {"name": "behind that"}, {GROUP: "h"})
        client.send("billing", {"name": "late"}, {GROUP: "k"}, delay=2)
        client.send("billing", {"name": "behind"}, {GROUP: "k"})
        client.send("billing", {"name": "other"}, {GROUP: "l"})
        client.send("billing", {"name": "at"}, delay=datetime.now(UTC) + timedelta(seconds=0.5))
        eventually(lambda: len(seen) == 4)

    assert seen.keys() == {"late", "behind", "other", "at"}
    assert seen["at"] >= 0.5
    assert seen["late"] < seen["behind"]
    assert seen["late"] >= 2


def test_types_are_found_by_what_a_message_says_or_by_what_fits(bus: Bus, client: PGMQueue) -> None:
    seen: list[object] = []

    @bus.subscribe("orders.*", name="billing")
    def on_order(event: Created | Cancelled) -> None:
        seen.append(event)

    with bus.running():
        client.send("billing", {"order": "a", "n": 1})
        client.send("billing", {"order": "b", "reason": "r"}, {"type": "orders.cancelled"})
        client.send("billing", {"order": "c"}, {"pgbus-topic": "orders.created"})
        assert bus.wait_idle()

    assert sorted(map(repr, seen)) == sorted(
        map(repr, [Created(order="a", n=1), Cancelled(order="b", reason="r"), Created(order="c")])
    )


def test_what_does_not_fit_harms_no_neighbour_and_can_be_redriven(
    make_bus: Callable[..., Bus], client: PGMQueue
) -> None:
    seen: list[Created] = []
    bus = make_bus()

    @bus.subscribe("orders.*", name="billing")
    def on_order(event: Created) -> None:
        seen.append(event)

    misfits: list[tuple[dict[str, Any], dict[str, Any] | None]] = [
        ({"order": 17}, {GROUP: "a"}),
        ({}, None),
        ({"order": "a"}, {"type": "stock.low", GROUP: "a"}),
        ({"order": "a"}, {"type": "orders.created", "pgbus-version": 2}),
    ]
    with bus.running():
        for number, (body, headers) in enumerate(misfits):
            client.send("billing", {"order": "a", "n": number}, {GROUP: "a"})
            client.send("billing", body, headers)
        client.send("billing", {"order": "a", "n": 4}, {GROUP: "a"})
        assert bus.wait_idle()
    assert [event.n for event in seen] == [0, 1, 2, 3, 4]

    letters = list(bus.dead_letters("billing"))
    found = [(one.body, one.headers or None) for one in letters]
    assert sorted(map(repr, found)) == sorted(map(repr, misfits))  # unordered without a group
    for letter in letters:
        assert letter.key == letter.headers.get(GROUP)
        assert letter.topic == letter.headers.get("type")
    assert {one.id for one in letters} == {None}
    assert {one.attempts for one in letters} == {1}
    assert client.metrics("billing_dlq").queue_length == 4

    received: list[tuple[Any, Context]] = []
    other = make_bus()

    @other.subscribe("orders.*", name="billing")
    def on_anything(event: Any, context: Context) -> None:
        received.append((event, context))

    assert other.redrive("billing") == 4
    with other.running():
        assert other.wait_idle()
    assert sorted(map(repr, (event for event, _ in received))) == sorted(
        map(repr, (body for body, _ in misfits))
    )
    assert client.metrics("billing_dlq").queue_length == 0


def test_the_client_sees_what_pgbus_publishes(bus: Bus, client: PGMQueue) -> None:
    @bus.subscribe("orders.*", name="billing")
    def on_order(event: Created) -> None: ...

    bus.declare()
    receipts = bus.publish_many([Created(order="a", n=1), Created(order="b")])

    with pytest.warns(UserWarning, match="QueueRecord"):
        queues = {str(queue) for queue in client.list_queues()}
    assert queues == {"billing", "billing_dlq"}
    assert {(one.pattern, one.queue_name) for one in client.list_topic_bindings()} == {
        ("orders.*", "billing")
    }
    metrics = client.metrics("billing")
    assert (metrics.queue_length, metrics.total_messages) == (2, 2)
    found = messages(client, "billing")
    assert [message.message for message in found] == [
        {"order": "a", "n": 1},
        {"order": "b", "n": 0},
    ]
    for message, receipt in zip(found, receipts, strict=True):
        assert message.headers is not None
        assert message.headers["id"] == str(receipt.id)
        assert message.headers["specversion"] == "1.0"
        assert message.headers[GROUP] == message.message["order"]


def test_the_client_may_take_messages_from_under_a_running_bus(bus: Bus, client: PGMQueue) -> None:
    """What another client deletes or hides is not handled, and the bus goes on."""
    seen: list[int] = []

    @bus.subscribe("orders.*", name="billing")
    def on_order(event: Created) -> None:
        seen.append(event.n)

    bus.declare()
    bus.publish_many([Created(order="a", n=n) for n in range(6)])
    first, second, *_ = messages(client, "billing", 2)
    assert client.delete("billing", first.msg_id)
    assert client.archive("billing", second.msg_id)
    with bus.running():
        assert bus.wait_idle()
        assert seen == [2, 3, 4, 5]
        client.purge("billing")
        bus.publish(Created(order="a", n=6))
        assert bus.wait_idle()
    assert seen == [2, 3, 4, 5, 6]


def test_a_message_that_vanishes_while_it_is_handled_harms_nobody(
    bus: Bus, client: PGMQueue
) -> None:
    seen: list[int] = []

    @bus.subscribe("orders.*", name="billing", retry=QUICK)
    def on_order(event: Created) -> None:
        seen.append(event.n)
        client.purge("billing")
        if event.n == 1:
            raise RuntimeError("after the message was purged")

    with bus.running():
        for n in range(3):
            bus.publish(Created(order="a", n=n))
            assert bus.wait_idle()
    assert seen == [0, 1, 2]
    assert list(bus.dead_letters("billing")) == []

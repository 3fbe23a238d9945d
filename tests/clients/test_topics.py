"""A topic leads to the same queues whoever publishes: pgbus, or ``pgmq.send_topic``."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pgmq import PGMQueue

from pgbus import Bus, InvalidTopic, Outgoing
from pgbus.core.patterns import matches

PATTERNS = [
    "orders.created",
    "orders.*",
    "orders.#",
    "#.created",
    "*",
    "#",
    "#.#",
    "*.#",
    "#.*",
    "#.*.#",
    "*.*",
    "orders.#.created",
    "orders.#.#.created",
    "orders.*.#",
    "#.eu.#",
    "#.eu.#.created.#",
    "a-b._c.*",
    "A.*",
]
TOPICS = [
    "orders",
    "created",
    "orders.created",
    "orders.eu.created",
    "orders.eu.west.created",
    "orders.created.orders",
    "ordersx",
    "xorders.created",
    "orders-created",
    "ordersXcreated",
    "eu",
    "a.eu",
    "eu.a",
    "eu.created",
    "a.eu.b.created.c",
    "a-b._c.d",
    "A.b",
    "a.b",
    "a.b.c.d.e.f.g.h",
]


def declare(bus: Bus, patterns: dict[str, list[str]]) -> None:
    for name, texts in patterns.items():

        @bus.subscribe(*texts, name=name)
        def on_anything(event: Any) -> None: ...

    bus.declare()


def counts(client: PGMQueue, names: list[str]) -> dict[str, int]:
    return {name: client.metrics(name).queue_length for name in names}


def test_both_reach_the_queues_that_match(bus: Bus, client: PGMQueue) -> None:
    names = {f"s{number}": [pattern] for number, pattern in enumerate(PATTERNS)}
    declare(bus, names)
    expected = dict.fromkeys(names, 0)
    for topic in TOPICS:
        matching = [name for name, (pattern,) in names.items() if matches(pattern, topic)]
        assert bus.publish(topic, {"by": "pgbus"}).queues == len(matching)
        assert client.send_topic(topic, {"by": "pgmq"}) == len(matching)
        assert len(client.send_batch_topic(topic, [{"n": 1}, {"n": 2}])) == 2 * len(matching)
        for name in matching:
            expected[name] += 4
        assert counts(client, list(names)) == expected


@pytest.mark.parametrize("topic", ["", "a..b", ".a", "a.", "a.*", "a.#", "a b", "a\n", "é", "a/b"])
def test_both_refuse_what_is_no_topic(bus: Bus, client: PGMQueue, topic: str) -> None:
    declare(bus, {"all": ["#"]})
    with pytest.raises(psycopg.errors.RaiseException):
        client.send_topic(topic, {})
    with pytest.raises(InvalidTopic):
        bus.publish(topic, {})
    assert client.metrics("all").queue_length == 0


def test_a_queue_of_another_client_gets_what_it_is_bound_to(bus: Bus, client: PGMQueue) -> None:
    client.create_queue("Reports")  # its table is called q_reports
    client.create_queue("fast", unlogged=True)
    for queue in ("Reports", "fast"):
        client.bind_topic("orders.*", queue)
    declare(bus, {"billing": ["orders.#"]})

    receipt = bus.publish("orders.created", {"n": 1}, key="k", headers={"tenant": "7"})

    assert receipt.queues == 3
    for queue in ("Reports", "fast", "billing"):
        message = client.read(queue)
        assert not isinstance(message, list)
        assert message is not None
        assert message.message == {"n": 1}
        assert message.headers is not None
        assert message.headers["id"] == str(receipt.id)
        assert message.headers["type"] == "orders.created"
        assert message.headers["x-pgmq-group"] == "k"
        assert message.headers["tenant"] == "7"


def test_a_binding_that_comes_or_goes_counts_for_the_next_publish(
    bus: Bus, client: PGMQueue
) -> None:
    declare(bus, {"billing": ["orders.#"]})
    client.create_queue("reports")
    assert bus.publish("orders.created", {}).queues == 1
    client.bind_topic("orders.*", "reports")
    assert bus.publish("orders.created", {}).queues == 2
    client.unbind_topic("orders.*", "reports")
    assert bus.publish("orders.created", {}).queues == 1
    client.bind_topic("#", "reports")
    client.drop_queue("reports")
    assert bus.publish("orders.created", {}).queues == 1


words = st.sampled_from(["a", "b", "ab", "A", "-", "_1"])
topics = st.lists(words, min_size=1, max_size=5).map(".".join)
patterns = st.lists(st.one_of(words, st.sampled_from("*#")), min_size=1, max_size=6).map(".".join)


# The pool's own threads draw the lifetimes of connections from `random` meanwhile.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
def test_any_patterns_route_any_topics_alike(
    make_bus: Callable[..., Bus], client: PGMQueue, sql: psycopg.Connection
) -> None:
    publisher = make_bus()  # the same for all examples, with what it remembers of routes

    @settings(max_examples=60)
    @given(
        st.lists(st.lists(patterns, min_size=1, max_size=3), min_size=3, max_size=3),
        st.lists(topics, min_size=1, max_size=4),
    )
    def check(chosen: list[list[str]], published: list[str]) -> None:
        sql.execute("delete from pgmq.topic_bindings")
        bound = {f"s{number}": texts for number, texts in enumerate(chosen)}
        with make_bus() as bus:
            declare(bus, bound)
        for topic in published:
            expected = {
                name for name, texts in bound.items() if any(matches(one, topic) for one in texts)
            }
            assert {route.queue_name for route in client.test_routing(topic)} == expected
            assert publisher.publish(topic, {}).queues == len(expected)
            assert client.send_topic(topic, {}) == len(expected)
        receipts = publisher.publish_many([Outgoing(topic, None) for topic in published])
        for receipt in receipts:
            assert receipt.queues == len({r.queue_name for r in client.test_routing(receipt.topic)})

    check()

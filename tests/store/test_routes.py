"""What a publisher remembers of routes, against bindings that change under it."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import pytest

from pgbus import Bus, StoreError
from pgbus.store.routes import MOST_TOPICS, Route, Routes
from tests.store.queue import Connection, Queue, wait_until_blocked

Another = Callable[[], Connection]


@pytest.fixture
def shops(connection: Connection) -> tuple[Queue, Queue]:
    return Queue(connection, "billing"), Queue(connection, "shipping")


def bind(connection: Connection, pattern: str, queue: str) -> None:
    connection.execute("select pgmq.bind_topic(%s, %s)", (pattern, queue))


def unbind(connection: Connection, pattern: str, queue: str) -> None:
    connection.execute("select pgmq.unbind_topic(%s, %s)", (pattern, queue))


def test_a_remembered_route_sees_every_binding_committed_before(
    bus: Bus, connection: Connection, shops: tuple[Queue, Queue]
) -> None:
    assert bus.publish("orders.created", 1).queues == 0
    bind(connection, "orders.*", "billing")
    assert bus.publish("orders.created", 1).queues == 1
    bind(connection, "#", "shipping")
    assert bus.publish("orders.created", 1).queues == 2
    unbind(connection, "orders.*", "billing")
    assert bus.publish("orders.created", 1).queues == 1
    connection.execute("update pgmq.topic_bindings set queue_name = 'billing'")
    assert bus.publish("orders.created", 1).queues == 1
    connection.execute("truncate pgmq.topic_bindings")
    assert bus.publish("orders.created", 1).queues == 0
    assert [len(shop.ids()) for shop in shops] == [3, 2]


def test_whatever_pattern_matches_a_topic_is_found_by_its_ends(
    connection: Connection, shops: tuple[Queue, Queue]
) -> None:
    """Wildcards within words, too, which pgmq takes from its other clients."""
    connection.execute(
        """
        with recursive pattern(text, length) as (
            select word, 1 from unnest(%(words)s::text[]) as word
            union all
            select text || '.' || word, length + 1 from pattern, unnest(%(words)s::text[]) as word
            where length < 3
        )
        insert into pgmq.topic_bindings (pattern, queue_name) select text, 'billing' from pattern
        """,
        {"words": ["a", "b", "*", "#", "a*", "#b", "*a#"]},
    )
    [(at_its_ends,)] = connection.execute(
        "select pg_get_expr(indexprs, indrelid) from pg_index "
        "where indexrelid = 'pgmq.pgbus_bindings_by_ends'::regclass"
    )
    topics = [
        ".".join(words)
        for length in (1, 2, 3, 4)
        for words in product(("a", "b", "ab"), repeat=length)
    ]
    [(matching, missed, others)] = connection.execute(
        f"""
        select count(*) filter (where matches), count(*) filter (where matches and not found),
            count(*) filter (where not found)
        from pgmq.topic_bindings b, unnest(%s::text[]) as topic, pgbus.ends(topic) as ends,
            lateral (select topic ~ b.compiled_regex, {at_its_ends} = any (ends))
                as x(matches, found)
        """.encode(),
        [topics],
    )
    assert missed == 0
    assert matching > 1_000
    assert others > 1_000


def test_a_binding_that_is_not_committed_counts_for_its_own_transaction_alone(
    bus: Bus, connection: Connection, another: Another, shops: tuple[Queue, Queue]
) -> None:
    other = another()
    with other.transaction(force_rollback=True):
        bind(other, "orders.*", "billing")
        assert bus.publish("orders.created", 1, connection=other).queues == 1
        # What that transaction taught the bus must not be used outside of it.
        assert bus.publish("orders.created", 1).queues == 0
        assert bus.publish("orders.created", 1, connection=other).queues == 1
    assert bus.publish("orders.created", 1).queues == 0
    assert shops[0].ids() == []


def test_a_snapshot_from_before_a_binding_does_not_spoil_the_memory(
    bus: Bus, connection: Connection, another: Another, shops: tuple[Queue, Queue]
) -> None:
    bind(connection, "orders.*", "billing")
    old = another()
    old.execute("begin isolation level repeatable read")
    old.execute("select 1 from pgbus.routing")
    bind(connection, "orders.*", "shipping")
    assert bus.publish("orders.created", 1).queues == 2
    assert bus.publish("orders.created", 1, connection=old).queues == 1
    assert bus.publish("orders.created", 1).queues == 2
    old.execute("commit")
    assert bus.publish("orders.created", 1).queues == 2


def test_publishing_while_bindings_change_reaches_every_binding_of_its_time(
    bus: Bus, connection: Connection, another: Another, shops: tuple[Queue, Queue]
) -> None:
    """Three publishers share one memory; `billing` is bound all the time, `shipping` in turn."""
    bind(connection, "orders.#", "billing")
    changed = threading.Event()

    def publish() -> list[int]:
        queues = []
        while not changed.is_set():
            queues.append(bus.publish("orders.created", 1).queues)
        return queues

    with ThreadPoolExecutor() as threads:
        publishing = [threads.submit(publish) for _ in range(3)]
        changer = another()
        for _ in range(60):
            bind(changer, "orders.created", "shipping")
            assert bus.publish("orders.created", 1).queues == 2
            unbind(changer, "orders.created", "shipping")
            assert bus.publish("orders.created", 1).queues == 1
        changed.set()
        seen = [one for future in publishing for one in future.result()]
    assert set(seen) <= {1, 2}
    billing, shipping = shops
    assert len(billing.ids()) == len(seen) + 120
    assert len(shipping.ids()) == seen.count(2) + 60


def test_publishers_do_not_wait_for_a_binding_that_is_not_committed(
    bus: Bus, connection: Connection, another: Another, shops: tuple[Queue, Queue]
) -> None:
    bind(connection, "orders.#", "billing")
    binder = another()
    with binder.transaction():
        bind(binder, "orders.created", "shipping")
        connection.execute("set lock_timeout = '2s'")
        with connection.transaction():
            assert bus.publish("orders.created", 1, connection=connection).queues == 1
    assert bus.publish("orders.created", 1).queues == 2


def test_a_rename_under_a_publisher_leaves_nothing_half_done(
    bus: Bus,
    connection: Connection,
    another: Another,
    shops: tuple[Queue, Queue],
    aside: ThreadPoolExecutor,
) -> None:
    """It knew the old name when the rename committed: it publishes to the new one, or says so."""
    for name in ("billing", "shipping"):
        bind(connection, "orders.#", name)
    publisher, renamer = another(), another()
    with renamer.transaction():
        renamer.execute("select pgbus.rename_subscription('shipping', 'dispatch')")
        publishing = aside.submit(bus.publish, "orders.created", 1, connection=publisher)
        wait_until_blocked(connection, publisher)
    renamed = Queue(connection, "dispatch")
    refusal = publishing.exception()
    queues = 0
    if refusal is None:
        queues = publishing.result().queues
    else:
        assert isinstance(refusal, StoreError)
        assert "dropped or renamed" in str(refusal)
    assert [len(shops[0].ids()), len(renamed.ids())] == [queues // 2, queues // 2]
    assert bus.publish("orders.created", 1).queues == 2


def test_the_memory_is_bounded() -> None:
    from uuid import uuid4

    routes = Routes()
    generation = uuid4()
    for start in range(0, 3 * MOST_TOPICS, 1000):
        topics = [f"t.{n}" for n in range(start, start + 1000)]
        known = [Route("q", (1,))] * 1000
        routes.learn(generation, topics, known)
        assert routes.recall(topics) == (generation, known)
        assert len(routes._state[1]) <= MOST_TOPICS + 1000

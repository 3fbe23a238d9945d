"""Databases where pgmq came first, with queues, bindings and messages of its own."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from pgmq import PGMQueue, install_pgmq_from_sql
from psycopg_pool import ConnectionPool

from pgbus import Bus, Context


@pytest.fixture
def client(dsn: str) -> Iterator[PGMQueue]:
    """The pgmq client, on a database that has pgmq alone."""
    with psycopg.connect(dsn) as connection:
        install_pgmq_from_sql(conn=connection)
    with ConnectionPool[psycopg.Connection[Any]](dsn, min_size=1, max_size=2) as pool:
        yield PGMQueue(pool=pool, init_extension=False)


@pytest.fixture
def late_bus(dsn: str, client: PGMQueue) -> Iterator[Bus]:
    """A bus that finds pgmq there, and installs nothing by itself."""
    with Bus(dsn) as bus:
        yield bus


def test_installing_beside_pgmq_changes_nothing_of_it(
    dsn: str, client: PGMQueue, late_bus: Bus
) -> None:
    client.create_queue("reports")
    client.bind_topic("orders.*", "reports")
    client.send("reports", {"n": 1})

    def definitions() -> list[tuple[object, ...]]:
        with psycopg.connect(dsn) as connection:
            return connection.execute(
                "select p.oid, md5(pg_get_functiondef(p.oid)) from pg_proc p "
                "where p.pronamespace = 'pgmq'::regnamespace and p.prokind = 'f' order by 1"
            ).fetchall()

    before = definitions()
    late_bus.install()
    late_bus.install()
    assert definitions() == before
    assert [one.pattern for one in client.list_topic_bindings("reports")] == ["orders.*"]
    assert client.metrics("reports").queue_length == 1
    assert late_bus.publish("orders.created", {"n": 2}).queues == 1
    assert client.metrics("reports").queue_length == 2


def test_a_queue_that_exists_becomes_a_subscription_with_what_it_holds(
    client: PGMQueue, late_bus: Bus
) -> None:
    client.create_queue("billing")
    client.bind_topic("legacy.*", "billing")
    client.send_batch(
        "billing",
        [{"n": n} for n in range(20)],
        [{"x-pgmq-group": f"k{n % 3}"} for n in range(20)],
    )
    hidden = client.read("billing", vt=1)  # another consumer has it for a second
    assert hidden is not None
    late_bus.install()
    seen: list[tuple[str | None, int]] = []

    @late_bus.subscribe("orders.*", name="billing")
    def on_order(event: dict[str, int], context: Context) -> None:
        seen.append((context.key, event["n"]))

    with late_bus.running():
        assert late_bus.publish("orders.created", {"n": 20}, key="k2").queues == 1
        assert late_bus.publish("legacy.created", {"n": 21}, key="k0").queues == 1
        assert late_bus.wait_idle()
        # A binding that another made is not pgbus's to prune.
        assert {(one.pattern, one.ours) for one in late_bus.bindings()} == {
            ("orders.*", True),
            ("legacy.*", False),
        }
    for key in range(3):
        ordered = [n for found, n in seen if found == f"k{key}"]
        assert ordered == sorted(ordered)
    assert sorted(n for _, n in seen) == list(range(22))


def test_a_fifo_index_and_notifications_of_pgmq_do_no_harm(client: PGMQueue, late_bus: Bus) -> None:
    late_bus.install()
    seen: list[int] = []

    @late_bus.subscribe("orders.*", name="billing")
    def on_order(event: dict[str, int]) -> None:
        seen.append(event["n"])

    late_bus.declare()
    client.create_fifo_index("billing")
    client.enable_notify("billing")
    with late_bus.running():
        for n in range(10):
            late_bus.publish("orders.created", {"n": n}, key="k")
            client.send("billing", {"n": n + 100}, {"x-pgmq-group": "l"})
        assert late_bus.wait_idle()
    assert [n for n in seen if n < 100] == list(range(10))
    assert [n for n in seen if n >= 100] == list(range(100, 110))

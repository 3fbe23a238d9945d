"""Publishing: transactions, idempotence, many at once, and everything that is refused."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
import psycopg
import pytest
from psycopg.rows import dict_row

from pgbus import (
    Bus,
    ConfigurationError,
    Event,
    InvalidTopic,
    Outgoing,
    PayloadError,
    PayloadTooLarge,
    StoreError,
)
from pgbus.store import workers
from pgbus.store.query import run
from tests.proxy import FaultProxy


class Created(Event, topic="orders.created", key="order"):
    order: str
    n: int = 0


class Measured(Event, topic="measured"):
    value: float


@pytest.fixture
def declared(bus: Bus) -> Bus:
    """A bus with two queues and nothing that handles them."""

    @bus.subscribe("orders.#", name="billing")
    def on_order(event: Created) -> None: ...

    @bus.subscribe("#", name="audit")
    def on_all(event: Any) -> None: ...

    bus.declare()
    return bus


def ready(bus: Bus) -> dict[str, int]:
    return {status.name: status.ready for status in bus.status()}


def test_receipts_are_time_ordered_and_count_queues(declared: Bus) -> None:
    first = declared.publish(Created(order="a"))
    second = declared.publish("stock.low", {"item": 1}, key="k")
    assert (first.topic, first.queues, first.duplicate) == ("orders.created", 2, False)
    assert (second.topic, second.queues) == ("stock.low", 1)
    assert first.id < second.id
    assert declared.publish_many([]) == []


@pytest.mark.parametrize("autocommit", [False, True])
def test_a_caller_may_be_in_a_pipeline(declared: Bus, bus_dsn: str, *, autocommit: bool) -> None:
    with psycopg.connect(bus_dsn, autocommit=autocommit) as connection:
        with connection.pipeline():
            counted = connection.execute("select 42")
            first, again = (
                declared.publish(Created(order="a"), connection=connection) for _ in range(2)
            )
            assert (first.queues, again.queues) == (2, 2)
            with pytest.raises(PayloadError):
                declared.publish("orders.created", float("nan"), connection=connection)
            assert counted.fetchone() == (42,)
        if not autocommit:
            assert ready(declared) == {"audit": 0, "billing": 0}
    assert ready(declared) == {"audit": 2, "billing": 2}


@pytest.mark.parametrize("autocommit", [False, True])
def test_events_commit_with_the_callers_transaction_or_not_at_all(
    declared: Bus, bus_dsn: str, *, autocommit: bool
) -> None:
    with psycopg.connect(bus_dsn, row_factory=dict_row, autocommit=autocommit) as connection:
        connection.execute("create table business (n integer)")
        with connection.transaction(force_rollback=True):
            connection.execute("insert into business values (1)")
            assert declared.publish(Created(order="a"), connection=connection).queues == 2
        assert ready(declared) == {"audit": 0, "billing": 0}
        with connection.transaction():
            connection.execute("insert into business values (2)")
            declared.publish_many([Created(order="a"), Created(order="b")], connection=connection)
            assert ready(declared) == {"audit": 0, "billing": 0}
        connection.commit()
        assert connection.execute("select n from business").fetchall() == [{"n": 2}]
    assert ready(declared) == {"audit": 2, "billing": 2}


@pytest.mark.parametrize(
    ("autocommit", "block", "unknown"),
    [(True, False, True), (True, True, False), (False, False, False)],
    ids=["autocommit", "a block", "the connection's transaction"],
)
def test_a_reply_lost_on_the_callers_connection_leaves_unknown_what_commits_at_once(
    declared: Bus, bus_dsn: str, *, autocommit: bool, block: bool, unknown: bool
) -> None:
    chosen = uuid4()
    with FaultProxy(bus_dsn) as way:
        way.lose_reply(b"pgbus.publish(")
        with (
            pytest.raises(StoreError) as lost,
            psycopg.connect(way.dsn, autocommit=autocommit) as connection,
            connection.transaction() if block else nullcontext(),
        ):
            declared.publish(Created(order="a"), id=chosen, connection=connection)
        assert way.lost_replies == 1
    assert lost.value.outcome_unknown is unknown
    assert declared.publish(Created(order="a"), id=chosen).duplicate is unknown
    assert ready(declared) == {"audit": 1, "billing": 1}


def test_the_callers_prepared_statements_and_cursors_do_not_matter(
    declared: Bus, bus_dsn: str
) -> None:
    with psycopg.connect(
        bus_dsn, cursor_factory=psycopg.ClientCursor, prepare_threshold=None
    ) as connection:
        for n in range(8):
            declared.publish(Created(order="a", n=n), connection=connection)
    assert ready(declared) == {"audit": 8, "billing": 8}


def test_the_same_id_again_stores_nothing(declared: Bus, bus_dsn: str) -> None:
    chosen = uuid4()
    first = declared.publish(Created(order="a"), id=chosen)
    again = declared.publish(Created(order="a"), id=chosen)
    assert (first.id, first.queues, first.duplicate) == (chosen, 2, False)
    assert (again.id, again.queues, again.duplicate) == (chosen, 0, True)
    many = declared.publish_many(
        [
            Outgoing("orders.x", 1, id=chosen),
            Outgoing("orders.x", 2, id=(other := uuid4())),
            Outgoing("orders.x", 3, id=other),
            Outgoing("orders.x", 4),
        ]
    )
    assert [receipt.duplicate for receipt in many] == [True, False, True, False]
    assert [receipt.queues for receipt in many] == [0, 2, 0, 2]
    assert ready(declared) == {"audit": 3, "billing": 3}

    rolled_back = uuid4()
    with psycopg.connect(bus_dsn) as connection:
        declared.publish(Created(order="a"), id=rolled_back, connection=connection)
        connection.rollback()
    assert not declared.publish(Created(order="a"), id=rolled_back).duplicate
    assert ready(declared) == {"audit": 4, "billing": 4}


def test_an_id_is_forgotten_after_the_dedup_window(
    make_bus: Callable[..., Bus], bus_dsn: str
) -> None:
    bus = make_bus(dedup_window=timedelta(hours=1))
    chosen = uuid4()
    bus.publish("orders.x", 1, id=chosen)
    with psycopg.connect(bus_dsn) as connection:
        connection.execute("update pgbus.published set forget_at = now()")
    assert not bus.publish("orders.x", 1, id=chosen).duplicate
    assert bus.publish("orders.x", 1, id=chosen).duplicate


def test_a_bus_with_a_short_window_forgets_no_ids_of_others(
    make_bus: Callable[..., Bus], bus_dsn: str
) -> None:
    patient, hasty = make_bus(), make_bus(dedup_window=timedelta(microseconds=1))
    ours, theirs = uuid4(), uuid4()
    patient.publish("orders.x", 1, id=ours)
    hasty.publish("orders.x", 1, id=theirs)
    with psycopg.connect(bus_dsn) as connection:
        run(connection, workers.forget_published())
        known = connection.execute("select id from pgbus.published").fetchall()
    assert known == [(ours,)]
    assert hasty.publish("orders.x", 1, id=ours).duplicate


@pytest.mark.parametrize("size", [1, 200], ids=["one by one", "together"])
def test_threads_with_the_same_ids_store_each_once_and_do_not_deadlock(
    declared: Bus, size: int
) -> None:
    ids = [uuid4() for _ in range(200)]
    receipts: list[Any] = []

    def publish(chosen: list[UUID]) -> None:
        for first in range(0, len(chosen), size):
            part = chosen[first : first + size]
            receipts.extend(
                declared.publish_many([Outgoing("orders.x", 1, id=one) for one in part])
            )

    threads = [threading.Thread(target=publish, args=(chosen,)) for chosen in (ids, ids[::-1]) * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(not receipt.duplicate for receipt in receipts) == 200
    assert ready(declared)["billing"] == 200


class Loud(msgspec.Struct):
    words: str


SECRET = "s3cr3t"
REFUSED: list[tuple[Any, type[Exception], str]] = [
    (Outgoing("orders.*", 1), InvalidTopic, "wildcard"),
    (Outgoing("", 1), InvalidTopic, "empty"),
    (Outgoing("a..b", 1), InvalidTopic, "empty"),
    (Outgoing("a" * 256, 1), InvalidTopic, "255"),
    (Outgoing("orders.x", {"secret": SECRET, "n": float("nan")}), PayloadError, "orders.x"),
    (Outgoing("orders.x", [SECRET, float("inf")]), PayloadError, "orders.x"),
    (Outgoing("orders.x", Loud(SECRET + "\x00")), PayloadError, "orders.x"),
    (Outgoing("orders.x", {SECRET + "\x00": 1}), PayloadError, "orders.x"),
    (Outgoing("orders.x", Loud(SECRET + "\ud800")), PayloadError, "orders.x"),
    (Outgoing("orders.x", object()), PayloadError, "object"),
    (Outgoing("orders.x", 10**2000), PayloadError, "orders.x"),
    (Outgoing("orders.x", msgspec.Raw(b"[1e131071]")), PayloadError, "orders.x"),
    (Outgoing("orders.x", msgspec.Raw(b"{oops")), PayloadError, "orders.x"),
    (Outgoing("orders.x", SECRET * 300_000), PayloadTooLarge, "1048576"),
    (Outgoing("orders.x", 1, headers={"a": SECRET * 2000}), PayloadTooLarge, "8192"),
    (Outgoing("orders.x", 1, headers={"id": SECRET}), PayloadError, "'id'"),
    (Outgoing("orders.x", 1, headers={"pgbus-x": SECRET}), PayloadError, "'pgbus-x'"),
    (Outgoing("orders.x", 1, key=""), PayloadError, "key"),
    (Outgoing("orders.x", 1, delay=-1), ConfigurationError, "delay"),
    (Outgoing("orders.x", 1, at=datetime(2030, 1, 1)), ConfigurationError, "aware"),
]


@pytest.mark.parametrize(("bad", "error", "words"), REFUSED)
def test_bad_input_is_refused_before_anything_is_stored(
    declared: Bus, bus_dsn: str, bad: Outgoing, error: type[Exception], words: str
) -> None:
    with psycopg.connect(bus_dsn) as connection:
        connection.execute("create table business (n integer)")
        with pytest.raises(error, match=words) as caught:
            declared.publish_many(
                [Created(order="a"), bad, Created(order="b")], connection=connection
            )
        assert SECRET not in str(caught.value)
        assert "item 2: " in str(caught.value)
        with pytest.raises(error):
            declared.publish_many([Created(order="a"), bad])
        # The caller's transaction is still usable, and nothing else is in it.
        connection.execute("insert into business values (1)")
    assert ready(declared) == {"audit": 0, "billing": 0}


EDGES: list[Any] = [
    1e15,
    2**63,
    2**64 - 1,
    "\\u0000 is text here",
    "ünïcödé ☃ 𝄞",
    msgspec.Raw(b'{"a":1.50}'),
    None,
    [],
    {"nested": [[[[]]]]},
    "x" * (2**20 - 2),
]


@pytest.mark.parametrize("payload", EDGES, ids=lambda payload: repr(payload)[:20])
def test_what_is_allowed_comes_back_as_it_went(bus: Bus, payload: Any) -> None:
    seen: list[Any] = []

    @bus.subscribe("edge", name="edge")
    def on_edge(event: Any) -> None:
        seen.append(event)

    with bus.running():
        bus.publish("edge", payload)
        assert bus.wait_idle(10)
    expected = msgspec.json.decode(payload) if isinstance(payload, msgspec.Raw) else payload
    assert seen == [expected]


def test_a_large_float_comes_back_as_the_float_that_its_type_says(bus: Bus) -> None:
    """PostgreSQL keeps 1e308 as 309 digits: without a type it is decoded as an int."""
    seen: list[Measured] = []

    @bus.subscribe("measured", name="edge")
    def on_edge(event: Measured) -> None:
        seen.append(event)

    with bus.running():
        bus.publish(Measured(value=1e308))
        assert bus.wait_idle(10)
    assert [event.value for event in seen] == [1e308]
    assert isinstance(seen[0].value, float)


def test_without_pgbus_in_the_database_the_error_says_so(dsn: str) -> None:
    with Bus(dsn) as bus:

        @bus.subscribe("orders.*", name="billing")
        def on_order(event: Created) -> None: ...

        for attempt in (bus.start, bus.declare, lambda: bus.publish(Created(order="a"))):
            with pytest.raises(StoreError, match="pgbus install"):
                attempt()


def test_a_server_that_is_not_there_is_a_store_error_without_the_password() -> None:
    with Bus("postgresql://me:hunter2@127.0.0.1:1/none?connect_timeout=1") as bus:
        assert "hunter2" not in repr(bus.dsn)
        assert "hunter2" not in repr(bus)
        with pytest.raises(StoreError) as caught:
            bus.install()
        assert "hunter2" not in str(caught.value)
    with pytest.raises(ConfigurationError) as refused:
        Bus("postgresql://me:hunter2@[broken")
    assert "hunter2" not in str(refused.value)


def test_a_closed_bus_says_so(make_bus: Callable[..., Bus]) -> None:
    bus = make_bus()
    bus.close()
    bus.close()
    with pytest.raises(ConfigurationError, match="closed"):
        bus.publish("a", 1)


def test_what_is_stored_as_the_bus_is_closed_is_not_said_to_be_refused(
    declared: Bus, make_bus: Callable[..., Bus], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = declared._pool
    run = pool.run

    def close_behind(operation: Any, **how: Any) -> Any:
        stored = run(operation, **how)
        declared.close()
        return stored

    declared.publish("orders.created", 1)
    declared._publisher.routes.tailed = True
    monkeypatch.setattr(pool, "run", close_behind)
    assert declared.publish("orders.created", 2).queues == 2
    assert ready(make_bus()) == {"audit": 2, "billing": 2}


def test_who_is_interrupted_as_it_records_a_type_keeps_nobody_waiting(declared: Bus) -> None:
    lock = threading.RLock()

    class Interrupting:
        """As if the signal came between the lock's answer and what is done with it."""

        release = lock.release

        def acquire(self, timeout: float) -> bool:
            lock.acquire(timeout=timeout)
            raise KeyboardInterrupt

    declared._contracts._lock = Interrupting()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        declared.publish(Created(order="a"))
    declared._contracts._lock = lock
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(declared.publish, Created(order="a")).result(10).queues == 2

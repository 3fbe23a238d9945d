"""Starting, stopping, losing the database, losing the lease."""

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import UUID

import psycopg
import pytest

from pgbus import (
    Bus,
    ConfigurationError,
    Context,
    Event,
    Incident,
    InvalidName,
    Outgoing,
    Retry,
    RetryAfter,
    StoreError,
)
from pgbus.core.verdict import Verdict
from pgbus.model.delivery import Message
from pgbus.store import query
from pgbus.threads import fetcher, worker
from pgbus.threads.outcome import Outcomes
from tests.servers import PostgresInstance
from tests.threads.asleep import sleepers
from tests.waiting import eventually

ONCE = Retry(max_attempts=1)


class Created(Event, topic="orders.created", key="order"):
    order: str
    n: int = 0


def test_start_and_stop_are_idempotent_and_repeatable(bus: Bus) -> None:
    handled: list[int] = []

    @bus.subscribe("orders.*", name="billing")
    def on_order(event: Created) -> None:
        handled.append(event.n)

    bus.stop()
    bus.start()
    bus.start()
    bus.publish(Created(order="a", n=1))
    assert bus.wait_idle(10)
    bus.stop()
    bus.stop()
    bus.publish(Created(order="a", n=2))
    with bus.running():
        assert bus.wait_idle(10)
    assert handled == [1, 2]


def test_threads_may_start_and_stop_at_once(bus: Bus) -> None:
    @bus.subscribe("orders.*", name="billing", concurrency=2)
    def on_order(event: Created) -> None: ...

    def churn() -> None:
        for _ in range(3):
            bus.start()
            bus.stop()

    threads = [threading.Thread(target=churn) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    bus.stop()
    assert bus.status()[0].workers == 0


def test_misuse_is_told_clearly(bus: Bus) -> None:
    with pytest.raises(ConfigurationError, match="no subscription"):
        bus.start()
    with pytest.raises(ConfigurationError, match="patterns"):
        bus.subscribe()

    @bus.subscribe("orders.*", name="billing")
    def on_order(event: Created) -> None: ...

    with pytest.raises(ConfigurationError, match="already"):
        bus.subscribe("orders.x", "orders.created", name="billing")(on_order)
    with bus.running(), pytest.raises(ConfigurationError, match=r"after start\(\)"):
        bus.subscribe("orders.created", name="other")(on_order)
    with pytest.raises(ConfigurationError, match=r"stock\.\*"):
        bus.subscribe("stock.*", name="other")(on_order)
    with pytest.raises(InvalidName):  # and not the name that it gets where there is none
        bus.subscribe("orders.*", name="")(on_order)


def test_stop_lets_handlers_finish_and_gives_the_rest_back_untouched(bus: Bus) -> None:
    begun, release = threading.Event(), threading.Event()
    handled: list[tuple[int, int]] = []

    @bus.subscribe("orders.*", name="billing", concurrency=1)
    def on_order(event: Created, context: Context) -> None:
        begun.set()
        release.wait(10)
        handled.append((event.n, context.attempt))

    bus.declare()
    bus.publish_many([Created(order="a", n=n) for n in range(5)])
    bus.start()
    assert begun.wait(10)
    stopper = threading.Thread(target=bus.stop)
    stopper.start()
    eventually(lambda: bus._subscriptions[0].closed)
    release.set()
    stopper.join(10)
    assert handled == [(0, 1)]
    [status] = bus.status()
    assert (status.ready, status.in_flight, status.workers) == (4, 0, 0)
    with bus.running():
        assert bus.wait_idle(10)
    assert handled == [(n, 1) for n in range(5)]


def test_stop_gives_back_what_was_taken_and_not_even_read(bus: Bus, bus_dsn: str) -> None:
    begun, end = threading.Event(), threading.Event()
    handled: list[int] = []

    @bus.subscribe("orders.*", name="billing", concurrency=1)
    def on_order(event: Created) -> None:
        begun.set()
        assert end.wait(20)
        handled.append(event.n)

    with psycopg.connect(bus_dsn, autocommit=True) as connection:

        def leases() -> int:
            row = connection.execute("select count(*) from pgbus.lease").fetchone()
            assert row is not None
            return int(row[0])

        bus.start()
        bus.publish(Created(order="a", n=1))
        assert begun.wait(20)
        bus.publish_many([Created(order=key, n=2) for key in "bcd"])
        eventually(lambda: leases() == 4)
        stopping = threading.Thread(target=bus.stop)
        stopping.start()
        eventually(lambda: leases() == 1)
        end.set()
        stopping.join()
        assert leases() == 0
        assert connection.execute("select * from pgbus.attempt").fetchall() == []
    assert handled == [1]
    with bus.running():
        assert bus.wait_idle(10)
    assert handled == [1, 2, 2, 2]


def test_a_stop_may_have_all_the_time_in_the_world(bus: Bus) -> None:
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    @bus.subscribe("a", name="billing")
    def handle(event: Any) -> None:
        begun.set()
        go_on.wait(20)
        ended.set()

    bus.start()
    bus.publish("a", {})
    assert begun.wait(20)
    threading.Timer(0.1, go_on.set).start()
    bus.stop(timeout=float("inf"))
    assert ended.is_set()
    assert bus.status("billing")[0].workers == 0


@pytest.mark.parametrize("call", [Bus.stop, Bus.close])
def test_a_handler_cannot_stop_the_bus_that_waits_for_it(
    bus: Bus, call: Callable[[Bus], None], caplog: pytest.LogCaptureFixture
) -> None:
    @bus.on_error
    def note(incident: Incident) -> None:
        call(bus)

    @bus.subscribe("orders.*", name="billing", retry=ONCE)
    def on_order(event: Created) -> None:
        call(bus)

    @bus.subscribe("orders.*", name="shipping", retry=ONCE)
    async def on_order_too(event: Created) -> None:
        call(bus)

    bus.declare()
    bus.publish(Created(order="a"))
    with bus.running():
        letters = [
            *eventually(lambda: list(bus.dead_letters("billing"))),
            *eventually(lambda: list(bus.dead_letters("shipping"))),
        ]
        assert bus.status()[0].workers == 1, "it runs on"
    assert ["none of them can call it" in letter.error for letter in letters] == [True, True]
    assert caplog.text.count("an on_error callback failed") >= 2
    assert bus.status()[0].workers == 0


def test_a_handler_that_outlasts_the_grace_counts_as_no_failure(bus: Bus, bus_dsn: str) -> None:
    begun, release = threading.Event(), threading.Event()
    attempts: list[int] = []

    @bus.subscribe("orders.*", name="billing", concurrency=2)
    def on_order(event: Created, context: Context) -> None:
        attempts.append(context.attempt)
        begun.set()
        if len(attempts) == 1:
            release.wait(30)

    bus.start()
    bus.publish(Created(order="a"))
    assert begun.wait(10)
    bus.stop(timeout=0.1)
    with psycopg.connect(bus_dsn) as connection:
        row = connection.execute("select failures, deaths, releases from pgbus.attempt").fetchone()
    assert row == (0, 0, 1)
    with bus.running():
        assert bus.wait_idle(10)
    assert attempts == [1, 1]
    release.set()


@pytest.mark.parametrize("asks", ["for the event", "for its context"])
def test_what_a_key_had_done_before_the_grace_ended_is_done(bus: Bus, asks: str) -> None:
    reached, release = threading.Event(), threading.Event()
    handled: list[int] = []

    def on_order(event: Created) -> None:
        handled.append(event.n)
        if event.n == 2 and not release.is_set():
            reached.set()
            release.wait(30)

    def on_delivery(event: Created, context: Context) -> None:
        on_order(event)

    handler = on_order if asks == "for the event" else on_delivery
    bus.subscribe("orders.*", name="billing", concurrency=1)(handler)
    bus.declare()
    bus.publish_many([Created(order="a", n=n) for n in range(5)])
    bus.start()
    assert reached.wait(10)
    bus.stop(timeout=0)
    release.set()
    with bus.running():
        assert bus.wait_idle(10)
    assert handled == [0, 1, 2, 2, 3, 4]
    assert not list(bus.dead_letters("billing"))


def test_killed_connections_lose_nothing(bus: Bus, bus_dsn: str) -> None:
    handled: dict[str, list[int]] = {}

    @bus.subscribe("orders.*", name="billing", concurrency=4)
    def on_order(event: Created) -> None:
        handled.setdefault(event.order, []).append(event.n)

    storm = (
        "select pg_terminate_backend(pid) from pg_stat_activity "
        "where application_name like 'pgbus%'"
    )
    with bus.running(), psycopg.connect(bus_dsn, autocommit=True) as connection:
        for n in range(8):
            eventually(partial(_try_to_publish, bus, n))
            connection.execute(storm)
        eventually(partial(_is_idle, bus), timeout=20)
    for numbers in handled.values():
        firsts = list(dict.fromkeys(numbers))
        assert firsts == sorted(firsts)
        assert set(numbers) == set(range(8))


def _try_to_publish(bus: Bus, n: int) -> bool:
    items = [
        Outgoing(
            "orders.created", Created(order=f"o{k}", n=n), key=f"o{k}", id=UUID(int=n * 100 + k)
        )
        for k in range(20)
    ]
    try:
        bus.publish_many(items)
    except StoreError:
        return False
    return True


def _is_idle(bus: Bus) -> bool:
    try:
        return bus.wait_idle(1)
    except StoreError:
        return False


def test_a_restarted_server_is_waited_for(
    own_server: Callable[..., PostgresInstance], caplog: pytest.LogCaptureFixture
) -> None:
    server = own_server()
    handled: list[int] = []
    with Bus(server.dsn("postgres"), lease=5) as bus:
        bus.install()

        @bus.subscribe("orders.*", name="billing")
        def on_order(event: Created) -> None:
            handled.append(event.n)

        with bus.running():
            bus.publish(Created(order="a", n=1))
            eventually(lambda: handled == [1])
            with caplog.at_level(logging.WARNING):
                server.kill9()
                lost_at = time.monotonic()
                threading.Event().wait(2.5)
                lines = [one for one in caplog.records if "waits for the database" in one.message]
                assert 1 <= len(lines) <= time.monotonic() - lost_at + 2
                server.restart()
            eventually(lambda: _publishes(bus))
            eventually(lambda: 2 in handled)


def test_handlers_with_many_events_in_hand_wait_for_a_server_that_is_away(
    own_server: Callable[..., PostgresInstance], caplog: pytest.LogCaptureFixture
) -> None:
    """Each of their transactions needs a connection: none is tried at once after another."""
    server = own_server()
    many, before, threads = 3_000, 1_000, 8
    handled: set[str] = set()
    busy, go_on = threading.Event(), threading.Event()
    with Bus(server.dsn("postgres"), lease=5) as bus:
        bus.install()

        @bus.subscribe("orders.*", name="billing", concurrency=threads)
        def on_order(event: Created, connection: psycopg.Connection[Any]) -> None:
            handled.add(event.order)
            if len(handled) > before:
                busy.set()
                go_on.wait(30)

        bus.declare()
        bus.publish_many([Created(order=str(n)) for n in range(many)])
        with caplog.at_level(logging.DEBUG, "pgbus"), bus.running():
            assert busy.wait(30)
            killed_at = time.monotonic()
            server.kill9()
            go_on.set()

            def given_back() -> list[logging.LogRecord]:
                return [one for one in caplog.records if "given back" in one.getMessage()]

            eventually(lambda: len(given_back()) >= threads)
            threading.Event().wait(1.0)
            so_far, elapsed = given_back(), time.monotonic() - killed_at
            assert len(so_far) <= (8 + elapsed) * threads
            assert all(one.levelno == logging.DEBUG for one in so_far)
            server.restart()
            eventually(lambda: len(handled) == many, timeout=60)


def _publishes(bus: Bus) -> bool:
    try:
        bus.publish(Created(order="a", n=2))
    except StoreError:
        return False
    return True


def test_a_worker_declared_dead_loses_its_keys_and_begins_again(
    make_bus: Callable[..., Bus], bus_dsn: str
) -> None:
    bus = make_bus(lease=3)
    incidents: list[Incident] = []
    bus.on_error(incidents.append)
    begun, release = threading.Event(), threading.Event()
    attempts: list[int] = []
    lost: list[bool] = []

    @bus.subscribe("orders.*", name="billing", concurrency=2)
    def on_order(event: Created, context: Context) -> None:
        attempts.append(context.attempt)
        if len(attempts) == 1:
            begun.set()
            release.wait(10)
            eventually(lambda: context.lease_lost)
            lost.append(context.lease_lost)
            context.extend(1)  # raises, which is no failure of the handler's

    with bus.running(), psycopg.connect(bus_dsn, autocommit=True) as connection:
        bus.publish(Created(order="a"))
        assert begun.wait(10)
        connection.execute("update pgbus.worker set expires_at = now() - interval '1 hour'")
        connection.execute("update pgbus.worker set lease = interval '-10 years'")
        connection.execute("select * from pgbus.reap()")
        eventually(lambda: len(attempts) == 2)
        release.set()
        eventually(lambda: [one.kind for one in incidents] == ["fenced"])
        assert bus.wait_idle(10)
    assert lost == [True]
    assert attempts == [1, 1]


def test_a_transactional_handler_that_lost_its_lease_rolls_back(
    make_bus: Callable[..., Bus], bus_dsn: str
) -> None:
    bus = make_bus(lease=3)
    begun, release = threading.Event(), threading.Event()
    attempts: list[int] = []
    with psycopg.connect(bus_dsn) as connection:
        connection.execute("create table effects (n integer)")

    @bus.subscribe("orders.*", name="billing", concurrency=2)
    def on_order(event: Created, connection: psycopg.Connection[Any], context: Context) -> None:
        attempts.append(context.attempt)
        connection.execute("insert into effects values (1)")
        if len(attempts) == 1:
            begun.set()
            release.wait(10)

    with bus.running(), psycopg.connect(bus_dsn, autocommit=True) as connection:
        bus.publish(Created(order="a"))
        assert begun.wait(10)
        connection.execute("update pgbus.worker set dead_at = now()")
        connection.execute("select * from pgbus.reap()")
        eventually(lambda: len(attempts) == 2)
        release.set()
        assert bus.wait_idle(10)
        rows = connection.execute("select n from effects").fetchall()
    assert rows == [(1,)]


def test_idle_a_bus_asks_less_than_once_a_second(
    make_bus: Callable[..., Bus], bus_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus = make_bus(lease=3600)  # so that only its first heartbeat comes
    # Counted here: the server's own counters lag, and count its autovacuum, too.
    asked: list[float] = []
    execute = query._execute

    def counted(connection: Any, one: Any, cursor: Any) -> Any:
        asked.append(time.monotonic())
        return execute(connection, one, cursor)

    monkeypatch.setattr(query, "_execute", counted)
    for name in ("one", "two", "three"):

        @bus.subscribe("orders.*", name=name)
        def on_order(event: Created) -> None: ...

    with bus.running(), psycopg.connect(bus_dsn, autocommit=True) as connection:
        idle = (
            "select count(*) from pg_stat_activity where application_name like 'pgbus/%%' and ("
            "state like 'idle in transaction%%' or clock_timestamp() - xact_start > '1 s')"
        )
        # Those that fell asleep have looked once more.
        eventually(lambda: sleepers(bus_dsn) == 3 and time.monotonic() - asked[-1] > 0.5)
        asked.clear()
        since = time.monotonic()
        eventually(lambda: len(asked) >= 4)
        # One poll for all subscriptions.
        assert time.monotonic() - since > 3, asked
        assert connection.execute(idle).fetchone() == (0,)


def test_an_idle_bus_is_woken_and_need_not_poll(
    bus: Bus, bus_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetcher, "POLL", 600.0)
    monkeypatch.setattr(fetcher, "SLEEP", 600.0)
    handled = threading.Event()

    @bus.subscribe("orders.*", name="billing")
    def on_order(event: Created) -> None:
        handled.set()

    with bus.running():
        eventually(partial(sleepers, bus_dsn))
        bus.publish(Created(order="a"))
        assert handled.wait(20)


@pytest.mark.parametrize("batch", [False, True], ids=["single", "batch"])
def test_a_transactional_handler_makes_room_and_need_not_poll(
    bus: Bus, batch: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetcher, "POLL", 600.0)
    monkeypatch.setattr(fetcher, "SLEEP", 600.0)
    handled: list[int] = []
    if batch:

        @bus.subscribe("orders.*", name="billing", concurrency=1, batch=3)
        def on_orders(events: list[Created], connection: psycopg.Connection[Any]) -> None:
            handled.extend(event.n for event in events)

    else:

        @bus.subscribe("orders.*", name="billing", concurrency=1)
        def on_order(event: Created, connection: psycopg.Connection[Any]) -> None:
            handled.append(event.n)

    bus.declare()
    bus.publish_many([Created(order=f"o{n}", n=n) for n in range(300)])
    with bus.running():
        # Where calls take long, as on a busy machine, each event is taken on its own.
        assert bus.wait_idle(100)
    assert sorted(handled) == list(range(300))


def test_every_retry_rings_a_timer_of_its_own(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several retries wait at once, due at different times; no regular poll finds them."""
    monkeypatch.setattr(fetcher, "POLL", 600.0)
    monkeypatch.setattr(fetcher, "SLEEP", 600.0)
    attempts: dict[str, list[int]] = defaultdict(list)

    @bus.subscribe("orders.*", name="billing")
    def on_order(event: Created, context: Context) -> None:
        attempts[event.order].append(context.attempt)
        if len(attempts[event.order]) < 4:
            raise RetryAfter(0.05 * (event.n + 1))

    with bus.running():
        bus.publish_many([Created(order=f"o{n}", n=n) for n in range(6)])
        assert bus.wait_idle(20)
    assert attempts == {f"o{n}": [1, 1, 1, 1] for n in range(6)}


@pytest.mark.parametrize(
    "options",
    [
        {"concurrency": 2.5},
        {"concurrency": 0},
        {"concurrency": True},
        {"ordered": "no"},
        {"retry": 5},
        {"timeout": "5"},
        {"timeout": 0},
        {"timeout": float("nan")},
        {"on_exhausted": "wait"},
    ],
    ids=repr,
)
def test_a_wrong_option_is_named_when_it_is_given(bus: Bus, options: dict[str, Any]) -> None:
    [name] = options
    with pytest.raises(ConfigurationError, match=name):

        @bus.subscribe("orders.*", name="billing", **options)
        def on_order(event: Created) -> None: ...


@pytest.mark.parametrize(
    "settings",
    [
        {"dsn": 5},
        {"service": 5},
        {"lease": "30"},
        {"lease": 0.1},
        {"on_unroutable": "shout"},
        {"prune_bindings": "no"},
        {"dedup_window": 7},
        {"max_body": 0},
    ],
    ids=repr,
)
def test_a_wrong_setting_is_named_when_it_is_given(settings: dict[str, Any]) -> None:
    [name] = settings
    with pytest.raises(ConfigurationError, match=name):
        Bus(**{"dsn": "host=nowhere", **settings})


def test_an_empty_dsn_is_not_taken_for_none() -> None:
    with pytest.raises(ConfigurationError, match="the DSN is empty"):
        Bus("")


@pytest.mark.parametrize(
    "call",
    [
        lambda bus: bus.dead_letters("nobody"),
        lambda bus: bus.redrive("nobody"),
        lambda bus: bus.drop_dead_letters("nobody"),
        lambda bus: bus.drop_subscription("nobody"),
        lambda bus: bus.rename_subscription("nobody", "somebody"),
    ],
)
def test_a_subscription_that_is_not_there_is_named(bus: Bus, call: Callable[[Bus], object]) -> None:
    with pytest.raises(ConfigurationError, match="there is no subscription 'nobody'"):
        call(bus)


@pytest.mark.parametrize("limit", [-1, 1.5, "2", True])
def test_a_limit_is_a_whole_number(bus: Bus, limit: Any) -> None:
    with pytest.raises(ConfigurationError, match="limit"):
        bus.redrive("billing", limit=limit)


@pytest.mark.parametrize("connection", ["postgresql://", object()], ids=["a DSN", "an object"])
def test_a_connection_is_one_of_psycopg(bus: Bus, connection: Any) -> None:
    with pytest.raises(ConfigurationError, match="connection is a Connection, not a"):
        bus.publish("orders.created", 1, connection=connection)


def test_a_fault_of_pgbus_itself_blocks_no_key(
    bus: Bus, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(worker, "BROKEN", 0.01)
    attempts: list[int] = []
    judge = Outcomes.judge

    def broken_once(self: Outcomes, message: Message, error: BaseException) -> Verdict:
        if len(attempts) == 1:
            raise ZeroDivisionError
        return judge(self, message, error)

    monkeypatch.setattr(Outcomes, "judge", broken_once)

    @bus.subscribe("orders.*", name="billing", concurrency=1)
    def on_order(event: Created, context: Context) -> None:
        attempts.append(context.attempt)
        if len(attempts) == 1:
            raise RuntimeError

    with bus.running():
        bus.publish(Created(order="a"))
        assert bus.wait_idle(10)
    assert attempts == [1, 1]
    assert "a worker of billing broke" in caplog.text

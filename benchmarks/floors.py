"""What PostgreSQL and the disk can do at most: raw statements on the rows that pgbus stores."""

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

from benchmarks.orders import batches
from benchmarks.peers.peer import share
from pgbus import Bus, Event

TABLE = "pgmq.q_floor"
INSERT = (
    f"insert into {TABLE} (vt, message, headers) values (clock_timestamp(), %s::jsonb, %s::jsonb)"
)
INSERT_MANY = (
    f"insert into {TABLE} (vt, message, headers) select clock_timestamp(), b::jsonb, h::jsonb "
    "from unnest(%b::text[], %b::text[]) as x(b, h)"
)
DELETE_MANY = f"delete from {TABLE} where msg_id = any (%s)"
BLOCK = b"\0" * 8192

Connection = psycopg.Connection[tuple[Any, ...]]


class Row(NamedTuple):
    """What pgbus stores of an event."""

    body: str
    headers: str


def rows(dsn: str, events: Sequence[Event]) -> list[Row]:
    """Return the very rows that pgbus stores of these events."""
    with Bus(dsn, service="bench") as bus:

        @bus.subscribe("#", name="floor_source")
        def handle(event: Any) -> None:
            """Is never called."""

        bus.declare()
        for part in batches(events, 1000):
            bus.publish_many(part)
    with psycopg.connect(dsn, autocommit=True) as connection:
        found = connection.execute(
            "select message::text, headers::text from pgmq.q_floor_source order by msg_id"
        ).fetchall()
    with Bus(dsn, service="bench") as bus:
        bus.drop_subscription("floor_source", force=True)
    return [Row(*row) for row in found]


def prepare(dsn: str) -> None:
    """Create a plain pgmq queue, or empty it: the table, without what pgbus adds."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("select pgmq.create('floor')")
        connection.execute(f"truncate {TABLE}")


def copy(dsn: str, stored: Sequence[Row], size: int) -> float:
    """COPY rows, a commit for so many; returns rows a second."""
    prepare(dsn)
    with psycopg.connect(dsn, autocommit=True) as connection:
        start = time.perf_counter()
        for first in range(0, len(stored), size):
            with (
                connection.cursor() as cursor,
                cursor.copy(f"copy {TABLE} (vt, message, headers) from stdin") as stream,
            ):
                for row in stored[first : first + size]:
                    stream.write_row(("now", row.body, row.headers))
        return len(stored) / (time.perf_counter() - start)


def copy_ready(dsn: str, stored: Sequence[Row], size: int, *, callers: int = 1) -> float:
    """COPY rows that were made text before the clock starts: the server's part alone."""
    prepare(dsn)
    blocks = [_block(part) for part in batches(stored, size)]
    with _connections(dsn, callers) as ready:

        def work(part: Sequence[bytes]) -> None:
            connection = ready.pop()
            for block in part:
                with (
                    connection.cursor() as cursor,
                    cursor.copy(f"copy {TABLE} (vt, message, headers) from stdin") as stream,
                ):
                    stream.write(block)

        start = time.perf_counter()
        share(blocks, callers, work)
        return len(stored) / (time.perf_counter() - start)


def _block(stored: Sequence[Row]) -> bytes:
    return "".join(f"now\t{_escape(row.body)}\t{_escape(row.headers)}\n" for row in stored).encode()


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n")


def insert(dsn: str, stored: Sequence[Row], callers: int) -> float:
    """INSERT rows one by one, each committed, on as many connections as callers."""
    prepare(dsn)
    with _connections(dsn, callers) as ready:
        start = time.perf_counter()

        def work(part: Sequence[Any]) -> None:
            connection = ready.pop()
            with connection.cursor() as cursor:
                for row in part:
                    cursor.execute(INSERT, row, prepare=True)

        share(stored, callers, work)
        return len(stored) / (time.perf_counter() - start)


def delete(dsn: str, stored: Sequence[Row], callers: int) -> float:
    """BEGIN, DELETE one row and COMMIT, on as many connections as callers."""
    copy_ready(dsn, stored, 10_000)
    with _connections(dsn, callers) as ready:
        found = ready[0].execute(f"select msg_id from {TABLE} order by msg_id").fetchall()
        ready[0].execute(f"analyze {TABLE}")
        start = time.perf_counter()

        def work(part: Sequence[Any]) -> None:
            connection = ready.pop()
            with connection.cursor() as cursor:
                for row in part:
                    with connection.transaction():
                        cursor.execute(f"delete from {TABLE} where msg_id = %s", row, prepare=True)

        share(found, callers, work)
        return len(found) / (time.perf_counter() - start)


def life(dsn: str, stored: Sequence[Row], size: int) -> None:
    """INSERT rows and DELETE them, a commit for so many."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        for part in batches(stored, size):
            bodies, headers = zip(*part, strict=True)
            connection.execute(INSERT_MANY, [list(bodies), list(headers)], prepare=True)
        found = connection.execute(f"select msg_id from {TABLE} order by msg_id").fetchall()
        for gone in batches(found, size):
            ids = [number for (number,) in gone]
            connection.execute(DELETE_MANY, [ids], prepare=True)


def commits(dsn: str, count: int) -> float:
    """Commit a transaction that writes next to nothing; returns commits a second."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("create table if not exists floor_commit (n integer)")
        start = time.perf_counter()
        for number in range(count):
            connection.execute("insert into floor_commit values (%s)", [number], prepare=True)
        return count / (time.perf_counter() - start)


def synchronisations(folder: Path, count: int) -> float:
    """Write a block and fdatasync it, as pg_test_fsync does; returns how many a second."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(BLOCK * 64)
        file.flush()
        os.fsync(file.fileno())
        start = time.perf_counter()
        for number in range(count):
            os.pwrite(file.fileno(), BLOCK, number % 64 * len(BLOCK))
            os.fdatasync(file.fileno())
        return count / (time.perf_counter() - start)


@contextmanager
def _connections(dsn: str, count: int) -> Iterator[list[Connection]]:
    with ExitStack() as stack:
        yield [stack.enter_context(psycopg.connect(dsn, autocommit=True)) for _ in range(count)]

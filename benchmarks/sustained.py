"""A run of many minutes: what the tables, the dead rows and the client's memory do meanwhile."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from benchmarks.crowd import crowd, resident
from benchmarks.measure import Series
from benchmarks.orders import orders
from benchmarks.peers import PGBUS
from benchmarks.peers.pgbus import QUEUE, Pgbus
from benchmarks.report import Figure
from benchmarks.run import Run
from benchmarks.tally import Job, Ledger

RATE, BATCH = 2_000, 20
KEYS = 1_000
SAMPLES = 60
GROWTH = 1.1
TABLES = {
    f"pgmq.q_{QUEUE}": "the queue's table",
    "pgbus.lease": "the leases' table",
}
SIZES = """
    select pg_table_size(c.oid), pg_indexes_size(c.oid), coalesce(s.n_dead_tup, 0)
    from pg_class c left join pg_stat_all_tables s on s.relid = c.oid
    where c.oid = to_regclass(%s)
"""
KIB = 1024
LSN = "select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')"


def sustained(run: Run) -> tuple[list[Series], list[Figure]]:
    """Publish and handle at a steady rate; return what was seen, and how the tables grew."""
    shape = f"{RATE:,} events/s for {run.seconds:,.0f} s"
    seen: dict[tuple[str, str], list[float]] = {}
    ledger = Ledger(orders(KEYS, KEYS))

    def note(name: str, unit: str, value: float) -> None:
        seen.setdefault((name, unit), []).append(value)

    with (
        run.contender(PGBUS, "order") as ours,
        crowd(PGBUS, ours.dsn, Job("order"), ledger=ledger, alone=True) as consumers,
        _publisher(ours.dsn) as published,
        psycopg.connect(ours.dsn, autocommit=True) as connection,
    ):
        start = time.monotonic()
        wal, count = written(connection), 0
        while (now := time.monotonic()) < start + run.seconds:
            run.tell(f"{shape}: {now - start:,.0f} s")
            time.sleep(run.seconds / SAMPLES)
            note("events in hand", "events", published[0] - consumers.handled)
            note("the subscriber's memory at most", "MiB", resident(consumers.pids[0]))
            if consumers.handled > count:
                more, many = written(connection), consumers.handled
                note("WAL", "bytes/event", (more - wal) / (many - count))
                wal, count = more, many
            for table, name in TABLES.items():
                for what, unit, value in _sizes(connection, table):
                    note(f"{name}: {what}", unit, value)
    if consumers.misplaced:
        raise RuntimeError(
            f"{consumers.misplaced} events twice or out of order in the sustained run"
        )
    series = [
        Series(shape=shape, contender=name, unit=unit, values=values, note=course(values))
        for (name, unit), values in seen.items()
    ]
    return series, _figures(series)


def written(connection: "psycopg.Connection[Any]") -> float:
    """Return how many bytes of WAL the server has written so far."""
    row = connection.execute(LSN).fetchone()
    assert row is not None
    return float(row[0])


def _sizes(connection: "psycopg.Connection[Any]", table: str) -> list[tuple[str, str, float]]:
    row = connection.execute(SIZES, [table]).fetchone()
    assert row is not None
    return [
        ("rows", "KiB", row[0] / KIB),
        ("indexes", "KiB", row[1] / KIB),
        ("dead rows", "rows", float(row[2])),
    ]


@contextmanager
def _publisher(dsn: str) -> Iterator[list[int]]:
    """Publish at the steady rate from a thread; yields a list whose one number counts."""
    published = [0]
    stop = threading.Event()
    peer = Pgbus(dsn)
    peer.open()

    def work() -> None:
        start = time.monotonic()
        while not stop.is_set():
            first = published[0]
            peer.bus.publish_many(orders(BATCH, KEYS, first=first))
            published[0] += BATCH
            stop.wait(max(0.0, start + published[0] / RATE - time.monotonic()))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield published
    finally:
        stop.set()
        thread.join()
        peer.close()


def course(values: list[float]) -> str:
    """Return how the values went: in the beginning, and at the end of each quarter of the run."""
    places = [(len(values) - 1) * part // 4 for part in range(5)]
    return "at first and by quarters: " + ", ".join(f"{values[place]:,.0f}" for place in places)


def _figures(series: list[Series]) -> list[Figure]:
    found = []
    for one in series:
        if one.unit != "KiB" or len(one.values) < 4:
            continue
        quarter = len(one.values) // 4
        early, late = max(one.values[quarter : 2 * quarter]), max(one.values[-quarter:])
        found.append(
            Figure(
                what=f"growth of {one.contender}",
                values=[late / early if early else 1.0],
                bound="at most",
                wanted=GROWTH,
                basis="the last quarter of the run to its second",
            )
        )
    return found

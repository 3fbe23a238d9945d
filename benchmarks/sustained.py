"""A run of many minutes: what the tables, the dead rows and the client's memory do meanwhile."""

import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import psycopg

from benchmarks.crowd import Crowd, crowd, resident
from benchmarks.measure import Series
from benchmarks.orders import orders
from benchmarks.pace import steadily, too_slow
from benchmarks.peers import PGBUS, Peer
from benchmarks.peers.pgbus import QUEUE, Pgbus
from benchmarks.report import Figure
from benchmarks.run import Run
from benchmarks.tally import Job, Ledger

RATE, BATCH = 2_000, 20
KEYS = 1_000
SAMPLES = 60
PATIENCE = 60.0
"""Seconds after the last event was published: what is not handled by then is lost."""
RISE = 1.1
ROOM = 2.0
"""How much larger than the rows of one naptime (see ``owed``) a table may be. Autovacuum comes to
a database once a naptime, and then takes a while, in which as many rows die as before; and what it
empties of an index can be used again only after its next visit. That is at most as much again,
while a table that is never vacuumed grows by as much every naptime."""
NAPTIMES = 3
"""So many have to pass: for ``ROOM`` to be missed by a table that is never vacuumed, and for one
that is vacuumed to have come to rest by the second quarter."""
SAMPLE = 10_000
"""Rows by which the size of one is measured."""
TABLES = {
    f"pgmq.q_{QUEUE}": "the queue's table",
    "pgbus.lease": "the leases' table",
}
PARTS = ("rows", "indexes")
SIZES = """
    select pg_table_size(c.oid), pg_indexes_size(c.oid), coalesce(s.n_dead_tup, 0)
    from pg_class c left join pg_stat_all_tables s on s.relid = c.oid
    where c.oid = to_regclass(%s)
"""
NAPTIME = "select extract(epoch from current_setting('autovacuum_naptime')::interval)"
KIB = 1024
LSN = "select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')"

Connection = psycopg.Connection[Any]
Seen = dict[tuple[str, str], list[float]]
"""By name and unit, what was seen at each look."""


class Owed(NamedTuple):
    """How many rows a table may have, alive and dead."""

    rows: float
    basis: str


class Publisher:
    """Publishes at the steady rate from a thread of its own, until it is told to stop."""

    def __init__(self, peer: Peer, threads: ThreadPoolExecutor) -> None:
        self.published = 0
        """The thread alone writes it."""
        self._peer = peer
        self._stop = threading.Event()
        self._work: Future[float] = threads.submit(self._publish)

    def _publish(self) -> float:
        return steadily(RATE, BATCH, self._publish_batch, lambda _: not self._stop.is_set())

    def _publish_batch(self, first: int) -> None:
        self._peer.publish_many(orders(BATCH, KEYS, first=first), BATCH)
        self.published = first + BATCH

    @property
    def ended(self) -> bool:
        """Whether it publishes no longer: unless it was told to stop, it has failed."""
        return self._work.done()

    def stop(self) -> None:
        """Let it end, without waiting."""
        self._stop.set()

    def result(self) -> float:
        """Stop, and return the events a second that it reached, or raise what it failed with."""
        self.stop()
        return self._work.result()


def sustained(run: Run) -> tuple[list[Series], list[Figure]]:
    """Publish and handle at a steady rate; return what was seen, and how the tables grew."""
    shape = f"{RATE:,} events/s for {run.seconds:,.0f} s"
    seen: Seen = {}
    ledger = Ledger(orders(KEYS, KEYS))
    with run.contender(PGBUS, "order") as ours, run.server.connect(ours.dsn) as connection:
        row_sizes = _row_sizes(ours.peer, connection)
        with (
            crowd(PGBUS, ours.dsn, Job("order"), ledger=ledger, alone=True) as consumers,
            _publisher(ours.dsn) as publisher,
        ):
            _watch(run, shape, connection, consumers, publisher, seen)
            rate = publisher.result()
            consumers.reach(publisher.published, PATIENCE)
            check(publisher.published, consumers.handled, consumers.misplaced)
            _look(connection, seen)
        naptime = float(_one(connection, NAPTIME))
    series = [
        Series(shape=shape, contender="events published", unit="events/s", values=[rate]),
        *(
            Series(shape=shape, contender=name, unit=unit, values=values, note=course(values))
            for (name, unit), values in seen.items()
        ),
    ]
    slow = too_slow(rate, RATE)
    rows = owed(max(seen["events in hand", "events"]), rate, naptime)
    if run.seconds >= NAPTIMES * naptime:
        return series, [*sizes_to_rows(seen, row_sizes, rows, slow), *plateaus(seen, slow)]
    short = f"{run.seconds:,.0f} s"
    run.left_out.append(f"plateaus of tables: autovacuum has hardly been there in {short}")
    return series, sizes_to_rows(seen, row_sizes, rows, slow or short)


def check(published: int, handled: int, misplaced: int) -> None:
    """Raise unless all that was published was handled, once and in order."""
    if misplaced:
        raise RuntimeError(f"{misplaced} events twice or out of order in the sustained run")
    if handled < published:
        raise RuntimeError(
            f"{published - handled:,} of {published:,} events were not handled in the sustained run"
        )


def _watch(
    run: Run,
    shape: str,
    connection: Connection,
    consumers: Crowd,
    publisher: Publisher,
    seen: Seen,
) -> None:
    """Look at everything again and again, until the time is over or the publisher failed."""
    start = time.monotonic()
    wal, count = written(connection), 0
    while (now := time.monotonic()) < start + run.seconds and not publisher.ended:
        run.tell(f"{shape}: {now - start:,.0f} s")
        time.sleep(run.seconds / SAMPLES)
        _note(seen, "events in hand", "events", publisher.published - consumers.handled)
        _note(seen, "the subscriber's memory at most", "MiB", resident(consumers.pids[0]))
        if consumers.handled > count:
            more, many = written(connection), consumers.handled
            _note(seen, "WAL", "bytes/event", (more - wal) / (many - count))
            wal, count = more, many
        _look(connection, seen)


def _note(seen: Seen, name: str, unit: str, value: float) -> None:
    seen.setdefault((name, unit), []).append(value)


def _look(connection: Connection, seen: Seen) -> None:
    """Note how large the tables are."""
    for table, name in TABLES.items():
        rows, indexes, dead = _sizes(connection, table)
        for part, size in zip(PARTS, (rows, indexes), strict=True):
            _note(seen, f"{name}: {part}", "KiB", size / KIB)
        _note(seen, f"{name}: dead rows", "rows", dead)


def written(connection: Connection) -> float:
    """Return how many bytes of WAL the server has written so far."""
    return float(_one(connection, LSN))


def _one(connection: Connection, statement: str) -> Any:
    row = connection.execute(statement).fetchone()
    assert row is not None
    return row[0]


def _sizes(connection: Connection, table: str) -> tuple[float, float, float]:
    """Return a table's bytes, those of its indexes, and how many dead rows it has."""
    row = connection.execute(SIZES, [table]).fetchone()
    assert row is not None
    rows, indexes, dead = row
    return float(rows), float(indexes), float(dead)


def _row_sizes(peer: Peer, connection: Connection) -> dict[str, float]:
    """Measure how many KiB a row takes of each table, and of its indexes; leave them empty."""
    peer.publish_many(orders(SAMPLE, KEYS), 1_000)
    connection.execute(
        "insert into pgbus.lease (subscription, lane, worker, token, quantity) "
        "select 0, hashint8extended(n, 0), n, n, 1 from generate_series(1, %s) n",
        [SAMPLE],
    )
    found = {}
    for table, name in TABLES.items():
        rows, indexes, _ = _sizes(connection, table)
        for part, size in zip(PARTS, (rows, indexes), strict=True):
            found[f"{name}: {part}"] = size / KIB / SAMPLE
        connection.execute(f"truncate {table}")
    return found


@contextmanager
def _publisher(dsn: str) -> Iterator[Publisher]:
    peer = Pgbus(dsn)
    peer.open()
    try:
        with ThreadPoolExecutor(1) as threads:
            publisher = Publisher(peer, threads)
            try:
                yield publisher
            finally:
                publisher.stop()
    finally:
        peer.close()


def owed(in_hand: float, rate: float, naptime: float) -> Owed:
    """Return the rows that were in flight, at most, and those that died within one naptime.

    At most: no table becomes shorter, because to cut it off would take a lock that all wait for.
    An event has one row of each table at most.
    """
    rows = in_hand + rate * naptime
    basis = f"in flight, or handled in a naptime ({naptime:.0f} s)"
    return Owed(rows, f"at the end, to {rows:,.0f} rows: {basis}")


def course(values: list[float]) -> str:
    """Return how the values went: in the beginning, and at the end of each quarter of the run."""
    places = [(len(values) - 1) * part // 4 for part in range(5)]
    return "at first and by quarters: " + ", ".join(f"{values[place]:,.0f}" for place in places)


def plateaus(seen: Mapping[tuple[str, str], list[float]], slow: str) -> list[Figure]:
    """Compare each size in the last quarter with that in the second, when it has come to rest."""
    found = []
    for (name, unit), values in seen.items():
        if unit != "KiB" or len(values) < 4:
            continue
        quarter = len(values) // 4
        early, late = max(values[quarter : 2 * quarter]), max(values[-quarter:])
        found.append(
            Figure(
                what=f"plateau of {name}",
                values=[late / early if early else 1.0],
                bound="at most",
                wanted=RISE,
                basis="the last quarter of the run to its second",
                only=slow,
            )
        )
    return found


def sizes_to_rows(
    seen: Mapping[tuple[str, str], list[float]],
    row_sizes: Mapping[str, float],
    most: Owed,
    only: str,
) -> list[Figure]:
    """Compare each size at the end with that of the rows which there may be."""
    return [
        Figure(
            what=f"size of {name}",
            values=[seen[name, "KiB"][-1] / (size * most.rows)],
            bound="at most",
            wanted=ROOM,
            basis=most.basis,
            only=only,
        )
        for name, size in row_sizes.items()
    ]

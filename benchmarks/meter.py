"""Where time went between two moments: on the clock, in this process, in the server's functions."""

import time
from typing import NamedTuple

import psycopg

from benchmarks.peers.pgbus import QUEUE
from benchmarks.server import configure

TAKE, SETTLE, STORE = "server: take", "server: settle", "server: store"
FUNCTIONS = {
    f"take_{QUEUE}": TAKE,
    f"settle_{QUEUE}": SETTLE,
    f"acknowledge_{QUEUE}": SETTLE,
    "put_%": STORE,
}


class Spent(NamedTuple):
    """What something took, in seconds in all."""

    elapsed: float
    python: float
    server: dict[str, float]
    """In functions of the server, by part."""


class Meter:
    """Measures what goes on between two moments, in sessions that begin after it was made."""

    def __init__(self, dsn: str) -> None:
        configure(dsn, track_functions="pl")
        self._dsn = dsn
        self._before = self._functions()
        self._moments: list[tuple[float, float]] = []

    def tick(self) -> None:
        """Note a moment."""
        self._moments.append((time.perf_counter(), time.process_time()))

    def spent(self) -> Spent:
        """Return what was spent, once the sessions are over: only then they tell of it."""
        (start, idle), (end, busy) = self._moments
        after = self._functions()
        server = {part: after[part] - self._before[part] for part in after}
        return Spent(end - start, busy - idle, server)

    def _functions(self) -> dict[str, float]:
        found = dict.fromkeys(FUNCTIONS.values(), 0.0)
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            for function, part in FUNCTIONS.items():
                row = connection.execute(
                    "select coalesce(sum(self_time), 0) from pg_stat_user_functions "
                    "where funcname like %s",
                    [function],
                ).fetchone()
                assert row is not None
                found[part] += float(row[0]) / 1000
        return found

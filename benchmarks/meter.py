"""Where time went between two moments: on the clock, in this process, in the server's functions."""

import time
from collections.abc import Callable
from typing import NamedTuple

import psycopg

from benchmarks.measure import Case
from benchmarks.peers.pgbus import QUEUE
from benchmarks.server import configure

PYTHON, ELAPSED = "Python's processor time", "elapsed"
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
    commits: int
    """Of the database, a few for the measuring among them."""


class Meter:
    """Measures what goes on between two moments, in sessions that begin after it was made."""

    def __init__(self, dsn: str) -> None:
        configure(dsn, track_functions="pl")
        self._dsn = dsn
        self._before, self._commits = self._functions(), self._committed()
        self._moments: list[tuple[float, float]] = []

    def tick(self) -> None:
        """Note a moment."""
        self._moments.append((time.perf_counter(), time.process_time()))

    def spent(self) -> Spent:
        """Return what was spent, once the sessions are over: only then they tell of it."""
        (start, idle), (end, busy) = self._moments
        after = self._functions()
        server = {part: after[part] - self._before[part] for part in after}
        return Spent(end - start, busy - idle, server, self._committed() - self._commits)

    def _committed(self) -> int:
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            row = connection.execute(
                "select xact_commit from pg_stat_database where datname = current_database()"
            ).fetchone()
        assert row is not None
        return int(row[0])

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


def parts(
    shape: str, count: int, spend: Callable[[], Spent], *server: str, commits: bool = False
) -> list[Case]:
    """Return a case for each part of an event; the first of them measures for all.

    Parameters:
        count: of how many events.
        server: the parts of the server.
        commits: count the commits, too.
    """
    last: list[Spent] = []

    def elapsed() -> float:
        last[:] = [spend()]
        return each(last[0].elapsed)

    def each(seconds: float) -> float:
        return 1e6 * seconds / count

    def asked(part: str) -> Callable[[], float]:
        return lambda: each(last[0].server[part])

    def committed() -> float:
        return last[0].commits / count

    return [
        Case(shape, ELAPSED, elapsed, "µs"),
        Case(shape, PYTHON, lambda: each(last[0].python), "µs"),
        *(Case(shape, part, asked(part), "µs") for part in server),
        *([Case(shape, "commits", committed, "an event")] if commits else []),
    ]

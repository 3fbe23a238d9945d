"""Program 5: what does pgbus leave behind, hold, and ask for?"""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import psycopg
from psycopg import sql

from benchmarks import floors
from benchmarks.backlog import fill
from benchmarks.crowd import crowd, resident
from benchmarks.measure import Case, Series
from benchmarks.orders import orders
from benchmarks.pace import steadily, too_slow
from benchmarks.peers import PGBUS
from benchmarks.peers.pgbus import QUEUE
from benchmarks.report import Figure, Report, compared
from benchmarks.run import Opened, Run, find
from benchmarks.sustained import BATCH, RATE, sustained, written
from benchmarks.tally import Job
from pgbus import Event

BARE = "bare INSERT and DELETE"
TEN, ONE, SINGLY = "10 events a key", "one event a key", "one event a key, published one by one"
LIMIT = 120.0
# (An idle backend tells of its last transactions up to ten seconds later.)
SETTLE, IDLE = 12.0, 20.0
STARTED = 2.0
BURST = 20_000
BURST_SECONDS = 5.0
BURST_BATCHES = (100, 1_000)
"""The larger reach the rate where the smaller do not; but they are only 20 commits a second, whose
notifications could not be more. The smaller would tell of a storm at whatever rate they reach."""
RESIDENT = 120.0
MEMORY = "memory with the largest backlog waiting"
QUIET = "idle"
PUBLISHED, NOTIFICATIONS = "events published", "pgbus, notifications"


def storm(size: int) -> str:
    """Return the name of a shape."""
    return f"{BURST:,} events/s in batches of {size:,}"


def footprint(run: Run) -> Report:
    """Measure WAL, growth, memory, and what an idle bus asks."""
    series = []
    with ExitStack() as stack:
        series += run.rounds(_wal(run, stack))
    with ExitStack() as stack:
        series += run.rounds(_asked(run, stack))
    series += _memory(run)
    grown, figures = sustained(run)
    series += grown
    return Report(
        program="footprint",
        question="what does pgbus leave behind, hold in memory, and ask for when idle?",
        setup=[
            "WAL: from publishing (in batches of 1,000 where not one by one) to acknowledgement",
            f"idle: transactions a second of one process with nothing to do, over {IDLE:.0f} s",
            f"NOTIFY: those sent at {BURST:,} events/s while a process handles",
            f"memory: the most that a subscriber had with {max(run.backlogs):,} events waiting",
            f"sustained: {RATE:,} events/s in batches of {BATCH}, handled meanwhile, order checked",
            run.method.replace("events/s", "as stated"),
        ],
        figures=[*_figures(series), *figures],
        series=series,
        left_out=run.taken_left_out(),
        machine=run.machine,
    )


def _wal(run: Run, stack: ExitStack) -> list[Case]:
    ours = stack.enter_context(run.contender(PGBUS, "order"))
    bare = stack.enter_context(run.server.database())
    many, few = run.events, max(20, run.events // 10)
    cases = []
    for shape, events, size in (
        (TEN, orders(many, max(1, many // 10)), 1000),
        (ONE, orders(many, many), 1000),
        (SINGLY, orders(few, few), 1),
    ):
        stored = floors.rows(bare, events)
        cases += [
            _life(shape, ours, events, size),
            _bare(shape, bare, stored, size),
        ]
    return cases


def _life(shape: str, ours: Opened, events: Sequence[Event], size: int) -> Case:
    def once() -> float:
        ours.peer.clear("order")

        def work() -> None:
            if size > 1:
                ours.peer.publish_many(events, size)
            with crowd(PGBUS, ours.dsn, Job("order")) as consumers:
                if size == 1:
                    ours.peer.publish_each(events, 1)
                consumers.reach(len(events), LIMIT)

        return _written(ours.dsn, work) / len(events)

    return Case(f"WAL: {shape}", "pgbus", once, "bytes/event", ours=True)


def _bare(shape: str, dsn: str, stored: Sequence[floors.Row], size: int) -> Case:
    def once() -> float:
        floors.prepare(dsn)
        return _written(dsn, lambda: floors.life(dsn, stored, size)) / len(stored)

    return Case(f"WAL: {shape}", BARE, once, "bytes/event")


def _written(dsn: str, work: Callable[[], object]) -> float:
    """Return how many bytes of WAL the server writes meanwhile."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        before = written(connection)
        work()
        return written(connection) - before


def _asked(run: Run, stack: ExitStack) -> list[Case]:
    ours = stack.enter_context(run.contender(PGBUS, "order"))
    scale = min(1.0, run.seconds / 20)

    def idle() -> float:
        ours.peer.clear("order")
        with crowd(PGBUS, ours.dsn, Job("order")):
            time.sleep(SETTLE * scale)
            before = _transactions(run, ours.dsn)
            time.sleep(IDLE * scale)
            return (_transactions(run, ours.dsn) - before) / (IDLE * scale)

    return [
        Case(QUIET, "pgbus, transactions", idle, "/s", ours=True),
        *(case for size in BURST_BATCHES for case in _storm(ours, size, scale)),
    ]


def _storm(ours: Opened, size: int, scale: float) -> list[Case]:
    """Count the notifications while much is published; the first case measures for both."""
    reached: list[float] = []

    def notifications() -> float:
        ours.peer.clear("order")
        with crowd(PGBUS, ours.dsn, Job("order")):
            time.sleep(STARTED * scale)
            sent, published = _notified(ours, size, BURST_SECONDS * scale)
        reached[:] = [published]
        return sent

    return [
        Case(storm(size), NOTIFICATIONS, notifications, "/s", ours=True),
        Case(storm(size), PUBLISHED, lambda: reached[0], ours=True),
    ]


def _transactions(run: Run, dsn: str) -> float:
    """Count a database's transactions, from another database: not to be counted."""
    name = psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]
    with run.server.connect() as connection:
        row = connection.execute(
            "select xact_commit + xact_rollback from pg_stat_database where datname = %s", [name]
        ).fetchone()
    assert row is not None
    return float(row[0])


def _notified(ours: Opened, size: int, seconds: float) -> tuple[float, float]:
    """Publish at a high rate; return the notifications and the events a second."""
    events = orders(size * max(1, round(BURST * seconds / size)), 1000)

    def publish(first: int) -> None:
        ours.peer.publish_many(events[first : first + size], size)

    with psycopg.connect(ours.dsn, autocommit=True) as listener:
        for channel in (f"pgbus_{QUEUE}", "pgbus"):
            listener.execute(sql.SQL("listen {}").format(sql.Identifier(channel)))
        reached = steadily(BURST, size, publish, lambda count: count < len(events))
        count = sum(1 for _ in listener.notifies(timeout=0.5))
    return count * reached / len(events), reached


def _memory(run: Run) -> list[Series]:
    size = max(run.backlogs)
    series = []
    with run.contender(PGBUS, "order") as ours:
        run.tell(f"filling {size:,} for the memory")
        fill(ours.peer, size)
        for title, pause in (("a fast handler", 0.0), ("a handler of 10 ms", 0.01)):
            with crowd(PGBUS, ours.dsn, Job("order", pause=pause), alone=True) as consumers:
                time.sleep(min(10.0, run.seconds / 4))
                value = resident(consumers.pids[0])
            series.append(
                Series(shape=f"{MEMORY} ({size:,})", contender=title, unit="MiB", values=[value])
            )
    return series


def _figures(series: Sequence[Series]) -> list[Figure]:
    found = []
    for shape, most in ((TEN, 1.5), (ONE, 2.0), (SINGLY, 2.0)):
        ours, bare = find(series, f"WAL: {shape}", "pgbus"), find(series, f"WAL: {shape}", BARE)
        found += compared(f"WAL, {shape}", ours, bare, "at most", most)
    limits = {(QUIET, "pgbus, transactions"): ("transactions of an idle process", 1.0, "/s")}
    for one in series:
        if one.shape.startswith(MEMORY):
            limits[one.shape, one.contender] = (f"memory, {one.contender}", RESIDENT, "MiB")
        if (one.shape, one.contender) in limits:
            what, most, unit = limits[one.shape, one.contender]
            found.append(
                Figure(what=what, values=one.values, bound="at most", wanted=most, unit=unit)
            )
    return [*found, *notified(series)]


def notified(series: Sequence[Series]) -> list[Figure]:
    """Return the figures of notifications, each with the rate that it was measured at."""
    figures = []
    for size in BURST_BATCHES:
        sent, published = (find(series, storm(size), name) for name in (NOTIFICATIONS, PUBLISHED))
        if sent is not None and published is not None:
            figures.append(
                Figure(
                    what=f"NOTIFY at {storm(size)}",
                    values=sent.values,
                    bound="at most",
                    wanted=20.0,
                    unit="/s",
                    basis=f"{published.median:,.0f} events/s were published",
                    only=too_slow(published.median, BURST),
                )
            )
    return figures

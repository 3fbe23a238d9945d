"""Program 6: where does the time of an event go? What limits the figures of the other programs."""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import timedelta
from functools import partial
from statistics import median
from typing import Any
from uuid import uuid4

import psycopg

from benchmarks import floors
from benchmarks.measure import Case, Missing
from benchmarks.meter import SETTLE, STORE, TAKE, Meter, Spent
from benchmarks.orders import KINDS, batches, orders
from benchmarks.peers import PGBUS
from benchmarks.peers.pgbus import QUEUE
from benchmarks.publish import RAW_COPY, RAW_COPY_READY
from benchmarks.report import Report
from benchmarks.run import Opened, Run
from benchmarks.tally import THREADS
from pgbus import Bus, Event
from pgbus.core.encoding import Encoder
from pgbus.store.prepared import Prepared
from pgbus.store.publish import publish
from pgbus.store.query import run as ask
from pgbus.store.routes import Routes

PUBLISH, MANY = "publish one by one", "publish 1,000 at once"
TEN, ONE, TRANSACTION = "handle 10 events a key", "handle one event a key", "handle in transactions"
CALLS = 500
PATIENCE = 120.0
BATCH = 1_000
PYTHON, ELAPSED, RAW = "Python's processor time", "elapsed", "raw INSERT, committed"


def profile(run: Run) -> Report:
    """Measure the parts that a publish and a handled event are made of."""
    with ExitStack() as stack:
        ours = stack.enter_context(run.contender(PGBUS, "order"))
        publishing = [*_publish(run, stack, ours), *_publish_many(run, stack, ours)]
        series = run.rounds([*publishing, *_handle(run, ours)])
    return Report(
        program="profile",
        question="where does the time of an event go?",
        setup=[
            "publish one by one: the median call, and the median of what a call is made of",
            "the same queue has an index and a trigger that the raw INSERT's has not",
            f"publish {BATCH:,} at once: an event of {run.events:,}, each call one transaction",
            f"handle: what waits, in one process with {THREADS} threads, an event",
            "server: the time in its functions, in which they may wait for a core, too",
            "Python and the server's processes run side by side, on the cores there are",
            run.method.replace("events/s", "µs"),
        ],
        figures=[],
        series=series,
        left_out=run.taken_left_out(),
        machine=run.machine,
        baseline=ELAPSED,
    )


def _publish(run: Run, stack: ExitStack, ours: Opened) -> list[Case]:
    events = orders(CALLS, CALLS // 4)
    bare = stack.enter_context(run.server.database())
    [row, *_] = floors.rows(bare, events[:1])
    floors.prepare(bare)
    floor = stack.enter_context(psycopg.connect(bare, autocommit=True))
    connection = stack.enter_context(psycopg.connect(ours.dsn, autocommit=True))
    prepared = Prepared(connection)
    encoder, routes, new_id = Encoder(source="bench"), Routes(), uuid4()
    ready = [encoder.encode(one, new_id=uuid4(), time="2026-01-31T12:00:00Z") for one in events]
    day = timedelta(days=1)
    same = floors.INSERT.replace(floors.TABLE, f"pgmq.q_{QUEUE}")
    parts: dict[str, Callable[[int], object]] = {
        ELAPSED: lambda n: ours.peer.publish_each(events[n : n + 1], 1),
        "to encode it": lambda n: encoder.encode(events[n], new_id=new_id, time="now"),
        "its statement, committed": lambda n: ask(
            connection, publish([ready[n]], routes, strict=False, window=day), prepared.execute
        ),
        "raw INSERT into the same queue": lambda _: connection.execute(same, row, prepare=True),
        RAW: lambda _: floor.execute(floors.INSERT, row, prepare=True),
        "a round trip with its body": lambda _: floor.execute(
            "select %s::text", [row.body], prepare=True
        ),
    }
    return [
        *(Case(PUBLISH, name, _timed(part), "µs") for name, part in parts.items()),
        Case(PUBLISH, PYTHON, _worked(parts[ELAPSED]), "µs"),
        Case(PUBLISH, f"{PYTHON}, {RAW}", _worked(parts[RAW]), "µs"),
    ]


def _publish_many(run: Run, stack: ExitStack, ours: Opened) -> list[Case]:
    events = orders(run.events, max(1, run.events // 10))
    bare = stack.enter_context(run.server.database())
    stored = floors.rows(bare, events)

    def spend() -> Spent:
        ours.peer.clear("order")
        meter = Meter(ours.dsn)
        with Bus(ours.dsn, service="bench") as bus:
            bus.publish(events[0])  # it connects, and learns where to
            meter.tick()
            for part in batches(events, BATCH):
                bus.publish_many(part)
            meter.tick()
        return meter.spent()

    return [
        *_parts(MANY, len(events), spend, STORE),
        Case(MANY, RAW_COPY, lambda: 1e6 / floors.copy(bare, stored, BATCH), "µs"),
        Case(MANY, RAW_COPY_READY, lambda: 1e6 / floors.copy_ready(bare, stored, BATCH), "µs"),
    ]


def _timed(part: Callable[[int], object]) -> Callable[[], float]:
    def once() -> float:
        taken = []
        for number in range(CALLS):
            start = time.perf_counter()
            part(number)
            taken.append(time.perf_counter() - start)
        return 1e6 * median(taken)

    return once


def _worked(part: Callable[[int], object]) -> Callable[[], float]:
    def once() -> float:
        start = time.process_time()
        for number in range(CALLS):
            part(number)
        return 1e6 * (time.process_time() - start) / CALLS

    return once


def _handle(run: Run, ours: Opened) -> list[Case]:
    few = run.events
    many = 5 * few
    cases = []
    for shape, events, transactional in (
        (TEN, orders(many, many // 10), False),
        (ONE, orders(many, many), False),
        (TRANSACTION, orders(few, few), True),
    ):
        spend = partial(_handled, ours, events, transactional=transactional)
        cases += _parts(shape, len(events), spend, TAKE, SETTLE)
    return cases


def _handled(ours: Opened, events: Sequence[Event], *, transactional: bool) -> Spent:
    ours.peer.clear("order")
    for part in batches(events, BATCH):
        ours.peer.publish_many(part, BATCH)
    left = [len(events)]
    lock, over = threading.Lock(), threading.Event()

    def tick() -> None:
        """Read the clocks at the first event and at the last."""
        with lock:
            left[0] -= 1
            if left[0] in (0, len(events) - 1):
                meter.tick()
        if not left[0]:
            over.set()

    def each(_: Any) -> None:
        tick()

    def transaction(_: Any, connection: "psycopg.Connection[Any]") -> None:
        del connection
        tick()

    handler: Any = transaction if transactional else each
    handler.__annotations__["_"] = KINDS["order"]
    meter = Meter(ours.dsn)
    with Bus(ours.dsn, service="bench") as bus:
        bus.subscribe("#", name=QUEUE, concurrency=THREADS)(handler)
        with bus.running():
            if not over.wait(PATIENCE):
                raise Missing(f"{left[0]} events were not handled in {PATIENCE:.0f} s")
    return meter.spent()


def _parts(shape: str, count: int, spend: Callable[[], Spent], *server: str) -> list[Case]:
    """Return a case for each part of an event; the first of them measures for all.

    Parameters:
        count: of how many events.
        server: the parts of the server.
    """
    last: list[Spent] = []

    def elapsed() -> float:
        last[:] = [spend()]
        return each(last[0].elapsed)

    def each(seconds: float) -> float:
        return 1e6 * seconds / count

    def asked(part: str) -> Callable[[], float]:
        return lambda: each(last[0].server[part])

    return [
        Case(shape, ELAPSED, elapsed, "µs"),
        Case(shape, PYTHON, lambda: each(last[0].python), "µs"),
        *(Case(shape, part, asked(part), "µs") for part in server),
    ]

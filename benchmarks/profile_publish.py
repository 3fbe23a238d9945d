"""What a publish is made of."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import timedelta
from functools import partial
from statistics import median
from uuid import uuid4

import psycopg

from benchmarks import floors
from benchmarks.measure import Case, rate
from benchmarks.meter import ELAPSED, PYTHON, STORE, Meter, Spent, parts
from benchmarks.orders import batches, orders
from benchmarks.peers.pgbus import QUEUE, Pgbus, declare
from benchmarks.publish import (
    CALLERS,
    ON_SLOW_DISK,
    RAW_COPY,
    RAW_COPY_READY,
    RAW_INSERT,
    slow_disk,
)
from benchmarks.run import Opened, Run
from pgbus import Bus, Event
from pgbus.core.encoding import Encoded, Encoder
from pgbus.store.prepared import Prepared
from pgbus.store.publish import publish, publish_known
from pgbus.store.query import run as ask
from pgbus.store.query import send
from pgbus.store.routes import Routes
from pgbus.threads.publisher import PART

PUBLISH, MANY = "publish one by one", "publish 1,000 at once"
TOGETHER = f"{PUBLISH}, {CALLERS} callers"
CALLS = 500
BATCH = 1_000
RAW = "raw INSERT, committed"
WINDOW = timedelta(days=1)


def one_by_one(run: Run, stack: ExitStack, ours: Opened) -> list[Case]:
    """Return the cases of a publish by one thread."""
    events = orders(CALLS, CALLS // 4)
    bare = stack.enter_context(run.server.database())
    [row, *_] = floors.rows(bare, events[:1])
    floors.prepare(bare)
    floor = stack.enter_context(psycopg.connect(bare, autocommit=True))
    connection = stack.enter_context(psycopg.connect(ours.dsn, autocommit=True))
    prepared = Prepared(connection)
    encoder, routes, new_id = Encoder(source="bench"), Routes(), uuid4()
    ready = [encoder.encode(one, new_id=uuid4(), time="2026-01-31T12:00:00Z") for one in events]
    same = floors.INSERT.replace(floors.TABLE, f"pgmq.q_{QUEUE}")
    steps: dict[str, Callable[[int], object]] = {
        ELAPSED: lambda n: ours.peer.publish_each(events[n : n + 1], 1),
        "to encode it": lambda n: encoder.encode(events[n], new_id=new_id, time="now"),
        "its statement, committed": lambda n: ask(
            connection, publish([ready[n]], routes, strict=False, window=WINDOW), prepared.execute
        ),
        "raw INSERT into the same queue": lambda _: connection.execute(same, row, prepare=True),
        RAW: lambda _: floor.execute(floors.INSERT, row, prepare=True),
        "a round trip with its body": lambda _: floor.execute(
            "select %s::text", [row.body], prepare=True
        ),
    }
    return [
        *(Case(PUBLISH, name, _timed(part), "µs") for name, part in steps.items()),
        Case(PUBLISH, PYTHON, _worked(steps[ELAPSED]), "µs"),
        Case(PUBLISH, f"{PYTHON}, {RAW}", _worked(steps[RAW]), "µs"),
    ]


def together(run: Run, stack: ExitStack) -> list[Case]:
    """Return the cases of publishes by many threads, one by one."""
    cases = []
    for disk in ("", ON_SLOW_DISK):
        dsn, bare = (stack.enter_context(run.server.database()) for _ in range(2))
        if disk and not slow_disk(run, dsn, bare):
            continue
        declare(dsn, "order")
        events = orders(2 * max(run.events // 10, CALLERS), 1000)
        raw = partial(floors.insert, bare, floors.rows(bare, events), CALLERS)
        cases += [
            *parts(TOGETHER + disk, len(events), partial(_published, dsn, events), commits=True),
            Case(TOGETHER + disk, RAW_INSERT, lambda raw=raw: 1e6 / raw(), "µs"),  # type: ignore[misc]
        ]
    return cases


def at_once(run: Run, stack: ExitStack, ours: Opened) -> list[Case]:
    """Return the cases of long calls."""
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

    encoder, routes = Encoder(source="bench"), Routes()
    connection = stack.enter_context(psycopg.connect(ours.dsn, autocommit=True))

    def encode() -> list[Encoded]:
        return [encoder.encode(one, new_id=uuid4(), time="2026-01-31T12:00:00Z") for one in events]

    def store() -> float:
        """Send what is ready, as a call does."""
        ours.peer.clear("order")
        ready = encode()
        ask(connection, publish(ready[:1], routes, strict=False, window=WINDOW))
        start = time.perf_counter()
        for call in batches(ready, BATCH):
            with connection.pipeline(), connection.transaction():
                known = [
                    publish_known(one, routes, strict=False, window=WINDOW)
                    for one in batches(call, PART)
                ]
                for receive in [send(connection, one) for one in known]:
                    assert receive() is not None
        return 1e6 * (time.perf_counter() - start) / len(ready)

    return [
        *parts(MANY, len(events), spend, STORE),
        Case(MANY, "to encode them, alone", lambda: 1e6 / rate(len(events), encode), "µs"),
        Case(MANY, "to store them, encoded before", store, "µs"),
        Case(MANY, RAW_COPY, lambda: 1e6 / floors.copy(bare, stored, BATCH), "µs"),
        Case(MANY, RAW_COPY_READY, lambda: 1e6 / floors.copy_ready(bare, stored, BATCH), "µs"),
    ]


def _published(dsn: str, events: Sequence[Event]) -> Spent:
    meter = Meter(dsn)
    peer = Pgbus(dsn)
    peer.open()
    try:
        peer.publish_each(events[: 10 * CALLERS], CALLERS)  # they connect, and learn where to
        meter.tick()
        peer.publish_each(events, CALLERS)
        meter.tick()
    finally:
        peer.close()
    return meter.spent()


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

"""What handling an event is made of."""

import sys
import threading
from collections.abc import Sequence
from functools import partial
from typing import Any

import psycopg

from benchmarks.measure import Case, Missing
from benchmarks.meter import SETTLE, TAKE, Meter, Spent, parts
from benchmarks.orders import KINDS, orders
from benchmarks.peers.pgbus import QUEUE
from benchmarks.run import Opened, Run
from benchmarks.tally import THREADS
from pgbus import Bus, Event

TEN, ONE, TRANSACTION = "handle 10 events a key", "handle one event a key", "handle in transactions"
ONE_KEY = "handle one key"
ONE_THREAD = f"{TEN}, one thread"
OFTEN = f"{TEN}, threads switched every 0.5 ms"
PATIENCE = 120.0
SWITCH = sys.getswitchinterval()


def handle(run: Run, ours: Opened) -> list[Case]:
    """Return the cases of handling what waits."""
    few = run.events
    many = 5 * few
    ten = orders(many, many // 10)
    cases = []
    for shape, events, transactional, threads, interval in (
        (TEN, ten, False, THREADS, SWITCH),
        (ONE_THREAD, ten, False, 1, SWITCH),
        (OFTEN, ten, False, THREADS, 0.0005),
        (ONE, orders(many, many), False, THREADS, SWITCH),
        (ONE_KEY, orders(few, 1), False, THREADS, SWITCH),
        (TRANSACTION, orders(few, few), True, THREADS, SWITCH),
    ):
        spend = partial(
            _handled, ours, events, transactional=transactional, threads=threads, interval=interval
        )
        cases += parts(shape, len(events), spend, TAKE, SETTLE)
    return cases


def _handled(
    ours: Opened, events: Sequence[Event], *, transactional: bool, threads: int, interval: float
) -> Spent:
    ours.peer.clear("order")
    ours.peer.publish_many(events, 1_000)
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
        bus.subscribe("#", name=QUEUE, concurrency=threads)(handler)
        sys.setswitchinterval(interval)
        try:
            with bus.running():
                if not over.wait(PATIENCE):
                    raise Missing(f"{left[0]} events were not handled in {PATIENCE:.0f} s")
        finally:
            sys.setswitchinterval(SWITCH)
    return meter.spent()

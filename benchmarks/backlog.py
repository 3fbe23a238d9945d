"""A backlog of a given shape and size, and what can be measured beside it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import psycopg

from benchmarks.crowd import crowd, drain
from benchmarks.leases import Taker
from benchmarks.measure import rate
from benchmarks.orders import batches, order, orders
from benchmarks.peers import PGBUS, Peer
from benchmarks.peers.pgbus import QUEUE, Pgbus, declare
from benchmarks.server import Server
from benchmarks.tally import Job, Notebook
from pgbus import Event, Outgoing
from pgbus.model.event import key_of

FAR = 86_400.0
"""Seconds of delay: none falls due in a run."""
LIMIT = 30.0
FILLED = 100_000
"""Events made at once while a backlog is filled."""
HOT, SPECIAL = 90_000_000, 91_000_000
"""Keys that no other event has."""
TABLES = (f"pgmq.q_{QUEUE}", f"pgmq.q_{QUEUE}_dlq", "pgbus.lease", "pgbus.attempt")
BARRED = f"""
    with model as (delete from pgmq.q_{QUEUE} returning message, headers)
    insert into pgmq.q_{QUEUE} (vt, message, headers)
    select clock_timestamp(), m.message,
        m.headers || jsonb_build_object('x-pgmq-group', 'barred-' || n)
    from model m, generate_series(1, %s) n
"""
"""Makes of the only event that waits so many, each of a key of its own."""
RETRIES = f"""
    with failed as (
        update pgmq.q_{QUEUE} set vt = clock_timestamp() + interval '1 hour', read_ct = 1
        returning msg_id
    )
    insert into pgbus.attempt (subscription, msg_id, failures)
    select s.id, f.msg_id, 1 from failed f, pgbus.subscription s where s.name = '{QUEUE}'
"""
"""Lets each of these have failed; it is to be tried again in an hour."""
LETTERS = f"""
    insert into pgmq.q_{QUEUE}_dlq (vt, enqueued_at, message, headers)
    select clock_timestamp(), m.enqueued_at, m.message, m.headers || jsonb_build_object(
        'pgbus-dead', jsonb_build_object('msg_id', -m.msg_id, 'lane', {{lane}}))
    from pgmq.q_{QUEUE} m
"""
"""Lets each of these wait behind a dead letter of its key."""


def takes(step: int) -> int:
    """Return how many takes a round measures: a hundred, but where it handles a few events only."""
    return min(100, step // 10)


@dataclass(frozen=True)
class Shape:
    """What waits: the keys, and what lies in front of them or beside."""

    name: str
    key: Callable[[int], int] | None
    """From an event's number to its key; ``None``: events without keys."""
    hot: int = 0
    """Events of one key in front of all others."""
    hot_taken: bool = False
    """Whether another worker holds that key."""
    delayed: int = 0
    """Delayed events of pgbus."""
    foreign: int = 0
    """Delayed events that another client sent by ``pgmq.send``."""
    in_flight: int = 0
    """Events that another worker holds, each of a key of its own."""
    retrying: int = 0
    """Keys whose only event waits for a retry."""
    parked: int | None = None
    """Keys whose only event waits behind a dead letter; ``None``: the subscription parks none."""

    @property
    def job(self) -> Job:
        """How a process handles what waits."""
        return Job(
            kind="loose" if self.key is None else "order",
            on_exhausted="skip" if self.parked is None else "park",
        )

    @property
    def barred(self) -> Iterator[int]:
        """The keys of which nothing must be handled."""
        yield from range(SPECIAL, SPECIAL + max(self.in_flight, self.delayed, 1))
        if self.hot_taken:
            yield HOT


def fill(peer: Peer, keys: int) -> None:
    """Publish an event for each of so many keys."""
    for start in range(0, keys, FILLED):
        peer.publish_many(orders(min(FILLED, keys - start), keys, first=start), 1000)


class Backlog:
    """A database with such a backlog, for the length of a block.

    Every round publishes ``step`` events and handles as many, so that the backlog stays.
    """

    def __init__(self, server: Server, shape: Shape, size: int, step: int) -> None:
        self.size = size
        self.dsn = ""
        self._server = server
        self._shape = shape
        self._step = step
        self._number = 0
        self._peer = Pgbus("")
        self._holder: Taker | None = None
        self._unchecked: list[Notebook] = [
            Notebook(str(key_of(order(0, key))) for key in shape.barred)
        ]
        """For the first round, which is the warm-up."""

    def __enter__(self) -> Self:
        self.dsn = self._server.installed()
        self._peer = Pgbus(self.dsn)
        self._peer.open()
        self._peer.clear(self._shape.job.kind)
        declare(self.dsn, self._shape.job.kind, on_exhausted=self._shape.job.on_exhausted)
        self._hold()
        for start in range(0, self.size, FILLED):
            self._peer.publish_many(self._next(min(FILLED, self.size - start)), 1000)
        self._come_to_rest()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._holder is not None:
            self._holder.__exit__(kind, error, traceback)
        self._peer.close()
        self._server.drop(self.dsn)

    def _next(self, count: int) -> list[Event]:
        key = self._shape.key
        numbers = range(self._number, self._number + count)
        self._number += count
        if key is None:
            return [order(number, 0, loose=True) for number in numbers]
        return [order(number, key(number)) for number in numbers]

    def _hold(self) -> None:
        """Put what lies in front or beside into its place."""
        shape = self._shape
        if shape.in_flight or shape.hot_taken:
            self._holder = Taker(self.dsn).__enter__()
        if shape.in_flight and self._holder is not None:
            held = [order(number, SPECIAL + number) for number in range(shape.in_flight)]
            self._peer.publish_many(held, 1000)
            self._holder.hold(shape.in_flight)
        if shape.hot:
            self._peer.publish_many([order(n, HOT) for n in range(shape.hot)], 1000)
            if shape.hot_taken and self._holder is not None:
                self._holder.take()
        for part in batches([order(n, SPECIAL + n) for n in range(shape.delayed)], 1000):
            late = [Outgoing(payload=event, topic="orders.placed", delay=FAR) for event in part]
            self._peer.bus.publish_many(late)
        if shape.foreign:
            with psycopg.connect(self.dsn, autocommit=True) as connection:
                connection.execute(
                    "select pgmq.send(%s, '{}'::jsonb, %s) from generate_series(1, %s)",
                    [QUEUE, int(FAR), shape.foreign],
                )
        if shape.retrying:
            self._bar(shape.retrying, RETRIES)
        if shape.parked:
            self._bar(shape.parked, LETTERS)

    def _bar(self, count: int, statement: str) -> None:
        """Let so many keys have an event that waits, and not for a worker."""
        self._peer.publish_many([order(0, SPECIAL)], 1)
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(BARRED, [count])
            row = connection.execute("select pgbus.lane('m', true)").fetchone()
            assert row is not None
            connection.execute(statement.format(lane=row[0]))

    def _come_to_rest(self) -> None:
        """Do now what the server would do by itself in the middle of a measurement."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            for table in TABLES:
                connection.execute(f"vacuum (analyze, index_cleanup on) {table}")
            connection.execute("checkpoint")

    def sweep(self) -> None:
        """Remove the dead rows, which are not what is measured: autovacuum comes when it will."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            for table in TABLES:
                connection.execute(f"vacuum (index_cleanup on) {table}")

    def take(self) -> float:
        """Return what takes cost an event where no row is dead, in microseconds."""
        self.sweep()
        return self.take_unswept()

    def take_unswept(self) -> float:
        """Return what takes cost an event beside the dead rows of the last round."""
        with Taker(self.dsn) as taker:
            return taker.cost(takes(self._step))

    def publish(self) -> float:
        """Publish a step's events; return events a second."""
        events = self._next(self._step)
        return rate(len(events), lambda: self._peer.publish_many(events, 100))

    def handle(self) -> float:
        """Let a process get through a step's events; return events a second."""
        ledger = self._unchecked.pop() if self._unchecked else None
        with crowd(PGBUS, self.dsn, self._shape.job, ledger=ledger) as consumers:
            reached = drain(consumers, self._step, LIMIT).rate
        consumers.check_order(self._shape.name)
        self._refill(consumers.handled - self._step)
        return reached

    def _refill(self, count: int) -> None:
        """Publish as many as the process handled beyond its share before it was stopped."""
        if count > 0:
            self._peer.publish_many(self._next(count), 1000)

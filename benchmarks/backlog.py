"""A backlog of a given shape and size, and what can be measured beside it."""

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import psycopg

from benchmarks.crowd import crowd, drain
from benchmarks.leases import Taker
from benchmarks.measure import rate
from benchmarks.orders import batches, order, orders
from benchmarks.peers import PGBUS, Peer
from benchmarks.peers.pgbus import QUEUE, Pgbus
from benchmarks.server import Server
from benchmarks.tally import Job
from pgbus import Event, Outgoing

FAR = 86_400.0
"""Seconds of delay: none falls due in a run."""
LIMIT = 30.0
FILLED = 100_000
"""Events made at once while a backlog is filled."""
HOT, SPECIAL = 90_000_000, 91_000_000
"""Keys that no other event has."""


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

    def __enter__(self) -> Self:
        self.dsn = self._server.installed()
        self._peer = Pgbus(self.dsn)
        self._peer.open()
        self._peer.clear(self._kind)
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

    @property
    def _kind(self) -> str:
        return "loose" if self._shape.key is None else "order"

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

    def _come_to_rest(self) -> None:
        """Do now what the server would do by itself in the middle of a measurement."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(f"vacuum analyze pgmq.q_{QUEUE}")
            connection.execute("checkpoint")

    def take(self) -> float:
        """Return what takes cost an event, in microseconds."""
        with Taker(self.dsn) as taker:
            return taker.cost(takes(self._step))

    def publish(self) -> float:
        """Publish a step's events; return events a second."""
        events = self._next(self._step)
        return rate(len(events), lambda: self._peer.publish_many(events, 100))

    def handle(self) -> float:
        """Let a process get through a step's events; return events a second."""
        with crowd(PGBUS, self.dsn, Job(self._kind)) as consumers:
            reached = drain(consumers, self._step, LIMIT).rate
        self._refill(consumers.handled - self._step)
        return reached

    def _refill(self, count: int) -> None:
        """Publish as many as the process handled beyond its share before it was stopped."""
        if count > 0:
            self._peer.publish_many(self._next(count), 1000)

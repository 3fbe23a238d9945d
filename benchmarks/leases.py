"""A worker without threads: takes leases by the statement that the fetcher uses, and keeps them."""

import secrets
import time
from types import TracebackType
from typing import Self

import psycopg

from benchmarks.peers.pgbus import QUEUE
from pgbus.core.walk import Walk
from pgbus.store import workers
from pgbus.store.leases import Leased, Take, take
from pgbus.store.query import run
from pgbus.store.settle import LaneSettlement, settle

LEASE = 3600.0
LANES, QUANTITY = 100, 10
SIZE = 8 * 2**20


class Taker:
    """Registered for the length of a block; what it took goes back at the end."""

    def __init__(self, dsn: str) -> None:
        self._connection = psycopg.connect(dsn, autocommit=True)
        self._worker = secrets.randbelow(2**62)
        self._token = 0
        self._walk = Walk()
        self._subscription = 0

    def __enter__(self) -> Self:
        row = self._connection.execute(
            "select id from pgbus.subscription where name = %s", [QUEUE]
        ).fetchone()
        assert row is not None
        self._subscription = int(row[0])
        declared = workers.Declaration(self._subscription, (), (), any_type=True)
        run(
            self._connection,
            workers.start(self._worker, "bench", "localhost", 0, LEASE, [declared]),
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        run(self._connection, workers.stop(self._worker))
        self._connection.close()

    def take(self, lanes: int = LANES, quantity: int = QUANTITY) -> Leased:
        """Take leases where a fetcher would look next, and keep them."""
        self._token += 1
        step = self._walk.next(lanes)
        wish = Take(
            subscription=self._subscription,
            name=QUEUE,
            worker=self._worker,
            token=self._token,
            step=step,
            lanes=lanes,
            quantity=quantity,
            size=SIZE,
            suspects=True,
            awake=False,
        )
        taken = take(self._connection, wish)
        self._walk.learn(
            step,
            lanes,
            taken.lanes,
            taken.resume,
            live=taken.live,
            contested=taken.contested,
        )
        return taken.read()

    def hold(self, events: int) -> None:
        """Take until so many events are in flight, however often that takes."""
        held = 0
        for _ in range(events):
            held += sum(len(chunk.messages) for chunk in self.take(5000).chunks)
            if held >= events:
                return
        raise RuntimeError(f"only {held} of {events} events could be taken")

    def give_back(self, leased: Leased) -> None:
        """Let go of what a take won."""
        lanes = [chunk.lane for chunk in leased.chunks] + leased.empty
        back = [LaneSettlement(lane, self._token, release=True) for lane in lanes]
        if back:
            run(self._connection, settle(QUEUE, self._worker, back))

    def cost(self, calls: int) -> float:
        """Return how many microseconds a take costs an event, over so many, each given back."""
        spent = 0.0
        events = 0
        for _ in range(calls):
            start = time.perf_counter()
            taken = self.take()
            spent += time.perf_counter() - start
            events += sum(len(chunk.messages) for chunk in taken.chunks)
            self.give_back(taken)
        if not events:
            raise RuntimeError(f"{calls} takes won nothing")
        return 1_000_000 * spent / events

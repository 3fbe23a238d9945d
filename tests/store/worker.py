"""A worker whose every step a test takes by hand."""

import secrets
from typing import NamedTuple

from pgbus.core.walk import MOST_VISITS, Step
from pgbus.errors import LeaseLost
from pgbus.model.delivery import FIRST_LANE, Chunk
from pgbus.store import leases, workers
from pgbus.store.handling import acknowledgement, begin_handling, end_handling
from pgbus.store.leases import Take
from pgbus.store.query import run, run_script
from pgbus.store.settle import LaneSettlement, settle
from tests.store.queue import Connection, Queue


class Took(NamedTuple):
    """What a take won, read."""

    chunks: list[Chunk]
    empty: list[int]
    resume: int | None
    contested: bool


class Worker:
    """What the threads of a bus do with the store, one operation at a time."""

    def __init__(self, connection: Connection, queue: Queue, *, lease: float = 30.0) -> None:
        self.connection = connection
        self.queue = queue
        self.id = secrets.randbits(63)
        self.token = 0
        declared = workers.Declaration(queue.number, (), (), any_type=True)
        run(connection, workers.start(self.id, "test", "here", 1, lease, [declared]))

    def wish(
        self,
        *,
        start: int = FIRST_LANE,
        by_arrival: bool = False,
        visits: int = MOST_VISITS,
        lanes: int = 100,
        quantity: int = 10,
        size: int = 2**20,
        suspects: bool = True,
        careful: bool = False,
    ) -> Take:
        self.token += 1
        return Take(
            subscription=self.queue.number,
            name=self.queue.name,
            worker=self.id,
            token=self.token,
            step=Step(by_arrival, start, visits),
            lanes=lanes,
            quantity=quantity,
            size=size,
            suspects=suspects,
            awake=False,
            careful=careful,
        )

    def take(self, wish: Take | None = None) -> Took:
        wish = wish or self.wish()
        taken = leases.take(self.connection, wish)
        chunks, empty = taken.read()
        # Whatever a take leases it must tell: a lease that nobody knows of stays for ever.
        told = [chunk.lane for chunk in chunks] + empty
        assert taken.lanes == len(told)
        assert taken.events >= sum(len(chunk.messages) for chunk in chunks)
        assert taken.suspect == any(chunk.suspect for chunk in chunks)
        mine = self.connection.execute(
            "select lane from pgbus.lease where subscription = %s and worker = %s and token = %s",
            (self.queue.number, self.id, wish.token),
        )
        assert sorted(told) == sorted(lane for (lane,) in mine)
        return Took(chunks, empty, taken.resume, taken.contested)

    def settle(self, *lanes: LaneSettlement, repeated: bool = False) -> set[int]:
        return run(self.connection, settle(self.queue.name, self.id, lanes, repeated=repeated))

    def finish(self, *chunks: Chunk) -> set[int]:
        """Acknowledge chunks whole, and let go of their lanes."""
        return self.settle(*(done(chunk) for chunk in chunks))

    def end_handling(self, lane: LaneSettlement) -> bool:
        """Settle in the transaction of a handler; return whether the lane was still held."""
        begin_handling(self.connection)
        try:
            end_handling(self.connection, self.queue.name, self.id, [lane])
        except LeaseLost:
            self.connection.execute("rollback")
            return False
        return True

    def settle_within(self, lane: LaneSettlement, *, transactional: bool) -> None:
        """Settle in a transaction that was just begun, and stays open.

        Parameters:
            transactional: as that of a handler does.
        """
        if transactional:
            self.connection.execute("set transaction deferrable")
            run_script(self.connection, acknowledgement(self.queue.name, self.id, lane))
        else:
            assert self.settle(lane) == {lane.lane}

    def heartbeat(self) -> bool:
        return run(self.connection, workers.heartbeat(self.id))

    def leave(self) -> None:
        """Sign off."""
        run(self.connection, workers.stop(self.id))

    def expire(self) -> None:
        """Fall silent, long ago."""
        self.queue.connection.execute(
            "update pgbus.worker set lease = interval '0', expires_at = '-infinity' where id = %s",
            (self.id,),
        )

    def die(self) -> None:
        """Fall silent, and be found."""
        self.expire()
        run(self.queue.connection, workers.reap())


def done(chunk: Chunk, *, release: bool = True) -> LaneSettlement:
    """Every event of a chunk was handled."""
    ids = [message.msg_id for message in chunk.messages]
    troubled = any(message.troubled for message in chunk.messages)
    return LaneSettlement(chunk.lane, chunk.token, release, done=ids, troubled=troubled)


def ids(taken: Took) -> list[list[int]]:
    """The message ids of each chunk, the chunks in order of their first."""
    return sorted([message.msg_id for message in chunk.messages] for chunk in taken.chunks)

"""A short history that a test steps by hand, written down and judged as that of a run is."""

import itertools
import json
import time
from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

import msgspec
import psycopg

from pgbus import Bus, Outgoing, StoreError
from pgbus.model.delivery import Chunk
from pgbus.store import letters
from pgbus.store.query import run
from pgbus.store.settle import LaneSettlement
from tests.store.queue import Queue
from tests.store.worker import Worker, done
from tests.torture import audit, checker, mutants
from tests.torture.history import History
from tests.torture.laws import Violation
from tests.torture.records import (
    Begin,
    Declared,
    End,
    Fate,
    Intent,
    Message,
    Outcome,
    Over,
    Record,
    now,
)

TOPIC = "work"
BILLING = "billing"
HAND = 1
"""The process id of workers that are stepped by hand."""

Connection = psycopg.Connection[tuple[Any, ...]]


class Scene:
    """One subscription, ``billing``, of a database that a mutant may have broken.

    Parameters:
        connection: in autocommit, to a database with pgbus.
        another: opens further ones.
        mutant: breaks the database, if it is one of the database's; the client's own are the
            test's to apply.
        transactional: whether what handles the events leaves effects.
        parks: whether a dead letter keeps back the later events of its key.
    """

    def __init__(
        self,
        connection: Connection,
        another: Callable[[], Connection],
        dsn: str,
        mutant: str | None,
        *,
        transactional: bool = False,
        parks: bool = False,
    ) -> None:
        self.connection = connection
        self.dsn = dsn
        self.records: list[Record] = []
        self._another = another
        self._uids = itertools.count(1)
        self._publisher = Bus(dsn, service="scene")
        self._mutant = mutant
        self.queue = self.declare(BILLING, transactional=transactional, parks=parks, first=True)

    def close(self) -> None:
        self._publisher.close()

    def declare(
        self, name: str, *, transactional: bool = False, parks: bool = False, first: bool = False
    ) -> Queue:
        """Bind a subscription to the topic, and write down that it was."""
        began = now()
        with Bus(self.dsn, service="scene") as bus:
            bus.subscribe(TOPIC, name=name, on_exhausted="park" if parks else "skip")(_nothing)
            bus.declare()
        if first:
            mutants.break_sql(self.connection, self._mutant)
            audit.install(self.connection)
        audit.watch(self.connection, name)
        self.records.append(Declared(name, [TOPIC], transactional, began, now(), parks))
        return Queue(self.connection, name, park=parks)

    def worker(self, queue: Queue | None = None) -> Worker:
        """A worker on a connection of its own."""
        return Worker(self._another(), queue or self.queue)

    def publish(self, *keys: str, how: str = "ok") -> None:
        """Publish one event for each key, each in a transaction of its own."""
        for key in keys:
            uid, event = self._event(key, how)
            self._publisher.publish_many([event])
            self.records.append(Outcome(uid, now(), "committed"))

    def publish_twice(self, *keys: str) -> None:
        """Publish events in one call, and again under the same ids, as whoever got no reply."""
        events = dict(self._event(key, "ok") for key in keys)
        again = [msgspec.structs.replace(event, id=uuid4()) for event in events.values()]
        for _ in range(2):
            self._publisher.publish_many(again)
        self.records += [Outcome(uid, now(), "committed") for uid in events]

    def _event(self, key: str, how: str) -> tuple[str, Outgoing]:
        uid = f"e{next(self._uids)}"
        self.records.append(Intent(uid, now(), [Message(uid, key, TOPIC, how)]))
        return uid, Outgoing(TOPIC, {"uid": uid, "how": how}, key=key)

    def publish_through(self, dsn: str, key: str) -> None:
        """Publish one event on another way, and write down what its publisher was told."""
        uid = f"e{next(self._uids)}"
        self.records.append(Intent(uid, now(), [Message(uid, key, TOPIC, "ok")]))
        fate: Fate = "committed"
        with Bus(dsn, service="scene") as publisher:
            try:
                publisher.publish(TOPIC, {"uid": uid, "how": "ok"}, key=key)
            except StoreError as error:
                fate = "unknown" if error.outcome_unknown else "rolled back"
        self.records.append(Outcome(uid, now(), fate))

    def give_up_one(self) -> None:
        """Deliver the first event of the one key that waits, and make a dead letter of it."""
        worker = self.worker()
        [chunk] = worker.take(worker.wish(quantity=1)).chunks
        self.begin(self.queue.name, self.uids(chunk)[0], HAND)
        dead = [(chunk.messages[0].msg_id, '{"tried": 1}')]
        worker.settle(
            LaneSettlement(chunk.lane, chunk.token, release=True, dead=dead, troubled=True)
        )

    def redrive(self) -> None:
        """Put all dead letters back, and see that they are."""
        run(self.connection, letters.redrive(self.queue.name, None, None))
        self.records.append(Over(audit.confirm(self.connection), now()))

    def handle(self, chunk: Chunk, queue: Queue | None = None, *, pid: int = HAND) -> None:
        """Hand the events of a chunk to a handler, which returns."""
        name = (queue or self.queue).name
        for uid in self.uids(chunk):
            self.begin(name, uid, pid)
            self.records.append(End(name, uid, pid, now()))

    def begin(self, subscription: str, uid: str, pid: int) -> None:
        self.records.append(Begin(subscription, uid, None, 1, pid, now()))

    def leave_effect(self, connection: Connection, uid: str, began: int, pid: int = HAND) -> None:
        connection.execute(
            "insert into torture.effect (subscription, uid, pid, began, ended) "
            "values (%s, %s, %s, %s, %s)",
            (self.queue.name, uid, pid, began, now()),
        )

    def transact(self, worker: Worker, chunk: Chunk) -> bool:
        """Handle a chunk in a transaction that leaves effects; false where it rolled back."""
        owned: set[int] = set()
        with worker.connection.transaction():
            began = now()
            self.handle(chunk)
            for uid in self.uids(chunk):
                self.leave_effect(worker.connection, uid, began)
            owned = worker.finish(chunk)
            if not owned:
                raise psycopg.Rollback
        return bool(owned)

    @staticmethod
    def uids(chunk: Chunk) -> list[str]:
        return [uid_of(message.body) for message in chunk.messages]

    def drain(self, queue: Queue | None = None) -> None:
        """Handle whatever can be had, to the end."""
        queue = queue or self.queue
        worker = self.worker(queue)
        while (taken := worker.take()).chunks:
            for chunk in taken.chunks:
                self.handle(chunk, queue)
            worker.settle(*(done(chunk) for chunk in taken.chunks))
        worker.settle(*(LaneSettlement(one, worker.token, release=True) for one in taken.empty))
        worker.leave()

    def violations(self, *, calm: bool = False) -> list[Violation]:
        """Judge what happened so far; ``calm`` where nothing befell any worker."""
        left = audit.stored(self.connection, dead=False)
        history = History(
            self.records,
            audit=audit.rows(self.connection),
            effects=audit.effects(self.connection),
            letters=audit.stored(self.connection, dead=True),
            left=left,
            leases=audit.leases(self.connection),
            drained=not left,
            calm=calm,
            clock=time.time() - time.monotonic(),
        )
        return checker.check(history)


def uid_of(body: str | None) -> str:
    assert body is not None
    return str(json.loads(body)["uid"])


def laws(violations: Sequence[Violation]) -> set[str]:
    return {violation.law for violation in violations}


def _nothing(event: Any) -> None: ...

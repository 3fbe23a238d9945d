"""Processes that publish, each in its own way, and write down what they were told.

``many``  calls of ``publish_many`` without ids, through a proxy that fails
``long``  transactions that stay open for a while, a fifth of which roll back
``cut``   transactions whose COMMIT gets no reply, or never arrives; repeated with the same ids
"""

import contextlib
import itertools
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import psycopg

from pgbus import Bus, Outgoing, PgbusError, StoreError
from tests.proxy import FaultProxy
from tests.torture.behaviour import DEED, HARMLESS, WORK
from tests.torture.records import Fate, Fault, Intent, Log, Message, Outcome, now
from tests.torture.workers import asked_to_end, settle_in

WAYS = ("many", "long", "cut", "many")
SHARE_OF_DEEDS = 0.2
KEYLESS = 0.05
ROLLED_BACK = 0.2
DAMMED = 0.02
"""Seconds until a publisher looks again whether there is room."""
MOST_BEHIND = 5.0
"""Seconds of its rate that a publisher catches up with."""
SPOILED = 0.4
"""The share of the commits of ``cut`` that are spoiled."""


class Errand(NamedTuple):
    """What a publisher process is told."""

    name: str
    way: str
    seed: int
    dsn: str
    log: Path
    output: Path
    keys: int
    rate: float
    """Events a second, at most."""
    dam: Path
    """While this file is there, enough waits to be handled."""
    harms: list[tuple[int, str]]
    """When (monotonic nanoseconds) to publish an event that makes its handler do what."""


def publish(errand: Errand) -> None:
    """Publish until SIGTERM."""
    settle_in(errand.output)
    stop = asked_to_end()
    with Log(errand.log) as log, contextlib.closing(_publisher(errand, log)) as publisher:
        due = time.monotonic()
        while not stop.is_set():
            # What was missed while the server was away is caught up with, up to a limit.
            due = max(due, time.monotonic() - MOST_BEHIND)
            due += publisher.once() / errand.rate
            while not stop.wait(max(0.0, due - time.monotonic())) and errand.dam.exists():
                due = time.monotonic() + DAMMED


def _publisher(errand: Errand, log: Log) -> "Publisher":
    kinds = {"many": Many, "long": Long, "cut": Cut}
    return kinds[errand.way](errand, log)


class Publisher:
    """What all ways have in common; ``once`` publishes a batch and returns its size."""

    most = 24

    def __init__(self, errand: Errand, log: Log) -> None:
        self.errand = errand
        self.log = log
        self.random = random.Random(errand.seed)
        self.bus = Bus(errand.dsn, service="torture")
        self._batches = itertools.count(1)
        self._harms = [*errand.harms]

    def close(self) -> None:
        self.bus.close()

    def once(self) -> int:
        raise NotImplementedError

    def _batch(self) -> tuple[str, list[Message]]:
        batch = f"{self.errand.name}.{next(self._batches)}"
        size = self.random.randint(1, self.most)
        return batch, [self._message(f"{batch}.{place}") for place in range(size)]

    def _message(self, name: str) -> Message:
        how = self.random.choices([*HARMLESS], [*HARMLESS.values()])[0]
        if self._harms and self._harms[0][0] <= now():
            _, how = self._harms.pop(0)
        topic = DEED if self.random.random() < SHARE_OF_DEEDS else WORK
        key = None
        if self.random.random() > KEYLESS:
            # A few keys get most of the events.
            key = f"k{int(self.errand.keys * self.random.random() ** 2)}"
        return Message(name if key is None else f"{name}@{key}", key, topic, how)

    def _intend(self, batch: str, messages: list[Message]) -> None:
        self.log.write(Intent(batch, now(), messages))

    def _learn(self, batch: str, fate: Fate) -> None:
        self.log.write(Outcome(batch, now(), fate))

    def _outgoing(self, messages: list[Message], ids: list[UUID] | None) -> Iterator[Outgoing]:
        for place, one in enumerate(messages):
            body = {"uid": one.uid, "how": one.how}
            yield Outgoing(one.topic, body, key=one.key, id=ids[place] if ids else None)

    def _ids(self, messages: list[Message]) -> list[UUID]:
        return [UUID(int=self.random.getrandbits(128), version=4) for _ in messages]


class Many(Publisher):
    most = 40

    def once(self) -> int:
        batch, messages = self._batch()
        self._intend(batch, messages)
        try:
            self.bus.publish_many(self._outgoing(messages, None))
        except StoreError as error:
            # What says that it is not unknown must not have been stored.
            self._learn(batch, "unknown" if error.outcome_unknown else "rolled back")
        else:
            self._learn(batch, "committed")
        return len(messages)


class Long(Publisher):
    def __init__(self, errand: Errand, log: Log) -> None:
        super().__init__(errand, log)
        self._connection: psycopg.Connection[Any] | None = None

    def close(self) -> None:
        self._drop()
        super().close()

    def once(self) -> int:
        batch, messages = self._batch()
        ids = self._ids(messages)
        keep = self.random.random() > ROLLED_BACK
        self._intend(batch, messages)
        while not self._try(messages, ids, keep=keep) and keep:
            time.sleep(0.05)
        self._learn(batch, "committed" if keep else "rolled back")
        return len(messages)

    def _try(self, messages: list[Message], ids: list[UUID], *, keep: bool) -> bool:
        """Publish in a transaction that stays open; false where it may not have been committed."""
        try:
            connection = self._connect()
            # In two calls: the first events wait with their low numbers while others commit.
            half = len(messages) // 2
            self._publish(messages[:half], ids[:half], connection)
            time.sleep(self.random.choice([0.0, 0.005, 0.05, 0.3]))
            self._publish(messages[half:], ids[half:], connection)
            if keep:
                self._commit(connection)
            else:
                connection.rollback()
        except (psycopg.Error, PgbusError):
            self._drop()
            return False
        return True

    def _publish(
        self, messages: list[Message], ids: list[UUID], connection: psycopg.Connection[Any]
    ) -> None:
        self.bus.publish_many(self._outgoing(messages, ids), connection=connection)

    def _commit(self, connection: psycopg.Connection[Any]) -> None:
        connection.commit()

    def _connect(self) -> psycopg.Connection[Any]:
        if self._connection is None:
            self._connection = psycopg.connect(self._dsn(), connect_timeout=5)
        return self._connection

    def _dsn(self) -> str:
        return self.errand.dsn

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                connection.close()


class Cut(Long):
    def __init__(self, errand: Errand, log: Log) -> None:
        super().__init__(errand, log)
        self._proxy = FaultProxy(errand.dsn).__enter__()

    def close(self) -> None:
        super().close()
        self._proxy.__exit__(None, None, None)

    def _dsn(self) -> str:
        return self._proxy.dsn

    def _commit(self, connection: psycopg.Connection[Any]) -> None:
        at, dice = now(), self.random.random()
        if dice < SPOILED / 2:
            lost = self._proxy.lost_replies
            self._proxy.lose_reply(b"COMMIT")
            try:
                connection.commit()
            finally:
                if self._proxy.lost_replies > lost:
                    self.log.write(Fault("lost commit", at, now(), []))
        elif dice < SPOILED:
            self._proxy.cut()
            self.log.write(Fault("cut before commit", at, now(), []))
            connection.commit()
        else:
            connection.commit()

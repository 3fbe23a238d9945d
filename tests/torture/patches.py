"""What mutants do to the client: each patch changes a class or a module of the package.

A patch makes all its changes by the setter that it is given: one that remembers what it replaces,
as that of a test's ``monkeypatch`` does, can undo them.
"""

import os
import signal
from collections.abc import Callable, Sequence
from typing import Any

import psycopg
from psycopg import sql

from pgbus import Reject
from pgbus.core.verdict import Bury
from pgbus.errors import PgbusError
from pgbus.store.leases import Take, Taken
from pgbus.store.settle import LaneSettlement, settle
from pgbus.threads import link, pool
from pgbus.threads.batch import BatchWorker, _Part
from pgbus.threads.delivery import Portion
from pgbus.threads.engine import Engine
from pgbus.threads.fetcher import Fetcher
from pgbus.threads.session import Session
from pgbus.threads.settler import Settler
from pgbus.threads.subscription import Subscription

Connection = psycopg.Connection[Any]
Put = Callable[[object, str, object], None]
"""Puts something in the place of an object's attribute, as ``setattr`` does."""

DIE_BETWEEN = "TORTURE_DIE_BETWEEN"
"""Set in the environment, the process dies where ``bury in two`` is at its weakest."""


def acknowledge_first(put: Put) -> None:
    original = Fetcher._hand_over

    def hand_over(
        self: Fetcher,
        subscription: Subscription,
        session: Session,
        order: Take,
        taken: Taken,
    ) -> bool:
        lanes = [
            LaneSettlement(
                chunk.lane,
                chunk.token,
                release=False,
                done=[message.msg_id for message in chunk.messages],
            )
            for chunk in taken.read().chunks
        ]
        if lanes:
            self._link.run(lambda: settle(order.name, order.worker, lanes))
        return original(self, subscription, session, order, taken)

    put(Fetcher, "_hand_over", hand_over)


def keep_empty(put: Put) -> None:
    original = Taken.read
    put(Taken, "read", lambda self: original(self)._replace(empty=[]))


def never_doubt(put: Put) -> None:
    def doubt(self: Session, token: int) -> None: ...

    put(Session, "doubt", doubt)


def stop_beating(put: Put) -> None:
    original = Engine.stop

    def stop(self: Engine, timeout: float) -> None:
        setattr(self._keeper, "_beat", lambda: None)  # noqa: B010
        original(self, timeout)

    put(Engine, "stop", stop)


def bury_in_two(put: Put) -> None:
    original = Settler._store

    def store(
        self: Settler, connection: Connection, group: Sequence[Portion], *, repeated: bool
    ) -> set[int]:
        dead = [letter for one in group for letter in one.lane.dead]
        if not dead:
            return original(self, connection, group, repeated=repeated)
        name = group[0].subscription.name
        copied = _copies(connection, name, [msg_id for msg_id, _ in dead])
        for one in group:
            one.lane.done = [*one.lane.done, *(msg_id for msg_id, _ in one.lane.dead)]
            one.lane.dead = []
        owned = original(self, connection, group, repeated=repeated)
        if os.environ.get(DIE_BETWEEN):
            os.kill(os.getpid(), signal.SIGKILL)
        with connection.cursor() as cursor:
            insert = sql.SQL(
                "insert into pgmq.{} (vt, message, headers) "
                "values (clock_timestamp(), %s::jsonb, %s::jsonb)"
            )
            cursor.executemany(insert.format(sql.Identifier(f"q_{name}_dlq")), copied)
        return owned

    put(Settler, "_store", store)


def settle_regardless(put: Put) -> None:
    put(BatchWorker, "_drafts", lambda self, parts: parts)


def go_on_behind(put: Put) -> None:
    original = BatchWorker._enter

    def enter(self: BatchWorker, *arguments: Any) -> bool:
        original(self, *arguments)
        return True

    put(BatchWorker, "_enter", enter)
    put(BatchWorker, "_stops", lambda self, error: False)


def reject_all(put: Put) -> None:
    original = BatchWorker._try_together

    def try_together(self: BatchWorker, parts: Sequence[_Part]) -> bool:
        if not original(self, parts):
            for part in parts:
                self._enter(part.portion, part.deliveries[0], Bury(), Reject("one of them is bad"))
                self._flush(part.portion, release=True)
        return True

    put(BatchWorker, "_try_together", try_together)


def say_no(put: Put) -> None:
    def as_store_error(error: psycopg.Error, *, outcome_unknown: bool = False) -> PgbusError:
        return link.as_store_error(error)

    put(pool, "as_store_error", as_store_error)


def _copies(connection: Connection, name: str, ids: list[int]) -> list[tuple[str, str]]:
    statement = sql.SQL(
        "select message::text, jsonb_build_object('pgbus-dead', jsonb_build_object("
        "'msg_id', msg_id, 'lane', 0, 'headers', headers))::text from pgmq.{} "
        "where msg_id = any (%s)"
    )
    return connection.execute(statement.format(sql.Identifier(f"q_{name}")), (ids,)).fetchall()

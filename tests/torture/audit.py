"""What the database writes down of itself; the how is in ``audit.sql``."""

from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

_SCRIPT = Path(__file__).with_name("audit.sql")

Connection = psycopg.Connection[Any]


class Row(NamedTuple):
    """One line of the audit, in the order in which things took effect.

    ``grant``, ``end``, ``buried``
        A lease was given, let go by its worker, taken from its worker.
    ``claim``, ``refused``
        A worker asked to settle a lane in this transaction; was refused to settle events there.
    ``settled``, ``retried``
        A message was deleted from its queue, was put off.
    ``born``, ``beat``, ``died``
        A worker registered, was heard of, was declared dead.
    """

    at: float
    """Seconds since the epoch."""
    xid: int
    kind: str
    subscription: str | None = None
    lane: int | None = None
    worker: int | None = None
    token: int | None = None
    msg_id: int | None = None
    uid: str | None = None
    pid: int | None = None


class Effect(NamedTuple):
    """What a transactional handler committed, and when it ran (monotonic nanoseconds)."""

    subscription: str
    uid: str
    key: str | None
    pid: int
    began: int
    ended: int


class Stored(NamedTuple):
    """A message in a queue or among its dead letters."""

    subscription: str
    uid: str


class Lease(NamedTuple):
    """A lease that somebody holds."""

    subscription: str
    lane: int
    worker: int


def install(connection: Connection) -> None:
    """Begin to write down; before anybody takes a lease."""
    connection.execute(_SCRIPT.read_bytes())


def watch(connection: Connection, subscription: str) -> None:
    """Write down what happens to a subscription that was just declared."""
    connection.execute("select torture.watch(%s)", (subscription,))


def rows(connection: Connection) -> list[Row]:
    found = connection.execute(
        "select extract(epoch from at)::double precision, xid, kind, subscription, lane, worker, "
        "token, msg_id, uid, pid from torture.audit order by seq"
    )
    return [Row(*row) for row in found]


def effects(connection: Connection) -> list[Effect]:
    found = connection.execute(
        "select subscription, uid, key, pid, began, ended from torture.effect order by id"
    )
    return [Effect(*row) for row in found]


def stored(connection: Connection, *, dead: bool) -> list[Stored]:
    """What is in the queues, or among the dead letters, of every subscription."""
    found = []
    for (name,) in connection.execute("select name from pgbus.subscription order by id").fetchall():
        table = sql.Identifier("pgmq", f"q_{name}_dlq" if dead else f"q_{name}")
        bodies = connection.execute(
            sql.SQL("select message ->> 'uid' from {} order by msg_id").format(table)
        )
        found += [Stored(name, uid) for (uid,) in bodies]
    return found


def leases(connection: Connection) -> list[Lease]:
    found = connection.execute(
        "select s.name, l.lane, l.worker from pgbus.lease l "
        "join pgbus.subscription s on s.id = l.subscription order by 1, 2"
    )
    return [Lease(*row) for row in found]

"""What the database writes down of itself; the how is in ``audit.sql``."""

from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import psycopg
from psycopg import sql

from tests.torture.records import Lines

_SCRIPT = Path(__file__).with_name("audit.sql")
AT_ONCE = 5_000
"""Rows that are fetched at once."""

Connection = psycopg.Connection[Any]


class Row(NamedTuple):
    """One line of the audit, in the order in which things took effect.

    ``grant``, ``end``, ``buried``, ``robbed``
        A lease was given; let go by its worker; taken from it because it was declared dead; taken
        from it by anybody else.
    ``claim``, ``refused``
        A worker asked to settle a lane in this transaction; was refused to settle events there.
    ``settled``, ``retried``
        A message was deleted from its queue, was put off.
    ``letter``, ``redriven``, ``dropped``
        A message became a dead letter; its dead letter was put back, was dropped.
    ``over``
        The transaction, a redrive, was seen to be committed.
    ``born``, ``beat``, ``died``
        A worker registered, was heard of, was declared dead (or changed after that).
    """

    at: float
    """Seconds since the epoch; of a grant, when the take that won it began."""
    xid: int
    kind: str
    subscription: str | None = None
    lane: int | None = None
    worker: int | None = None
    token: int | None = None
    msg_id: int | None = None
    uid: str | None = None
    pid: int | None = None


class Effect(msgspec.Struct, tag="effect", array_like=True, frozen=True):
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


_ROWS = (
    "select extract(epoch from at)::double precision, xid, kind, subscription, lane, worker, "
    "token, msg_id, uid, pid from torture.audit order by seq"
)
_EFFECTS = "select subscription, uid, key, pid, began, ended from torture.effect order by id"


def rows(connection: Connection) -> list[Row]:
    return [Row(*row) for row in connection.execute(_ROWS)]


def effects(connection: Connection) -> list[Effect]:
    return [Effect(*row) for row in connection.execute(_EFFECTS)]


def write_down(connection: Connection, folder: Path) -> tuple[Lines[Row], Lines[Effect]]:
    """Copy the audit and the effects to files: an hour of them has no place in memory."""
    audit, effects = Lines[Row](folder / "audit", Row), Lines[Effect](folder / "effects", Effect)
    encode = msgspec.json.Encoder().encode
    with connection.transaction():
        for lines, query, kind in ((audit, _ROWS, Row), (effects, _EFFECTS, Effect)):
            with lines.path.open("wb") as file, connection.cursor("everything") as cursor:
                cursor.itersize = AT_ONCE
                for row in cursor.execute(query):
                    file.write(encode(kind(*row)) + b"\n")
    return audit, effects


def confirm(connection: Connection) -> list[int]:
    """Tell of redrives that are seen to be committed: their transactions, each once."""
    return [
        xid
        for (xid,) in connection.execute(
            "insert into torture.audit (kind, xid) "
            "select distinct 'over', r.xid from torture.audit r where r.kind = 'redriven' and not "
            "exists (select from torture.audit o where o.kind = 'over' and o.xid = r.xid) "
            "returning xid"
        )
    ]


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

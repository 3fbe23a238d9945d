"""A subscription's queue as anybody with SQL sees it."""

from typing import Any, NamedTuple

import psycopg
from psycopg.types.json import Jsonb

from pgbus.store import topology
from pgbus.store.query import run
from tests.waiting import eventually

Connection = psycopg.Connection[tuple[Any, ...]]


class Everything(NamedTuple):
    """What there is of a queue; the methods of :class:`Queue` say what each is."""

    ids: list[int]
    letters: list[int]
    leases: dict[int, tuple[int, int]]
    attempts: dict[int, tuple[int, int, int, int]]


class Queue:
    """A subscription; sends as a foreign client does, and looks at the private tables."""

    def __init__(
        self,
        connection: Connection,
        name: str = "billing",
        *,
        ordered: bool = True,
        park: bool = False,
    ) -> None:
        self.connection = connection
        self.name = name
        self.number = run(connection, topology.declare(name, ordered=ordered, park=park))

    def send(
        self, *keys: str | None, delay: int = 0, connection: Connection | None = None
    ) -> list[int]:
        """Send one message for each key; return their ids."""
        sender = connection or self.connection
        ids = []
        for key in keys:
            headers = None if key is None else Jsonb({"x-pgmq-group": key})
            row = sender.execute(
                "select * from pgmq.send(%s, '{}'::jsonb, %s::jsonb, %s)",
                (self.name, headers, delay),
            ).fetchone()
            assert row is not None
            ids.append(int(row[0]))
        return ids

    def fill(self, count: int, keys: int) -> None:
        """Send many messages at once, in turn to each of the keys."""
        self.connection.execute(
            "select count(*) from pgmq.send_batch(%s, array(select '{}'::jsonb from "
            "generate_series(1, %s)), array(select jsonb_build_object('x-pgmq-group', "
            "'k' || n %% %s) from generate_series(1, %s) n))",
            (self.name, count, keys, count),
        )

    def lane(self, key: str) -> int:
        return int(self._one("select hashtextextended(%s, 0)", key))

    def ids(self) -> list[int]:
        """The messages in the queue."""
        return self._column(f"select msg_id from pgmq.q_{self.name} order by 1")

    def letters(self) -> list[int]:
        """What the dead letters were called when they were messages."""
        return self._column(
            "select (headers -> 'pgbus-dead' ->> 'msg_id')::bigint "
            f"from pgmq.q_{self.name}_dlq order by 1"
        )

    def leases(self) -> dict[int, tuple[int, int]]:
        """Who holds which lane: its worker and token."""
        rows = self.connection.execute(
            "select lane, worker, token from pgbus.lease where subscription = %s", (self.number,)
        )
        return {lane: (worker, token) for lane, worker, token in rows}

    def attempts(self) -> dict[int, tuple[int, int, int, int]]:
        """Of troubled messages: failures, deaths, suspicions, releases."""
        rows = self.connection.execute(
            "select msg_id, failures, deaths, suspected, releases from pgbus.attempt "
            "where subscription = %s",
            (self.number,),
        )
        return {msg_id: (f, d, s, r) for msg_id, f, d, s, r in rows}

    def everything(self) -> Everything:
        """All of these, by one statement."""
        row = self.connection.execute(
            f"select array(select msg_id from pgmq.q_{self.name} order by 1), "
            "array(select (headers -> 'pgbus-dead' ->> 'msg_id')::bigint "
            f"from pgmq.q_{self.name}_dlq order by 1), "
            "array(select array[lane, worker, token] from pgbus.lease where subscription = %(n)s), "
            "array(select array[msg_id, failures, deaths, suspected, releases] "
            "from pgbus.attempt where subscription = %(n)s)",
            {"n": self.number},
        ).fetchone()
        assert row is not None
        ids, letters, leases, attempts = row
        return Everything(
            ids,
            letters,
            {lane: (worker, token) for lane, worker, token in leases},
            {msg_id: (f, d, s, r) for msg_id, f, d, s, r in attempts},
        )

    def _one(self, statement: str, *parameters: object) -> Any:
        row = self.connection.execute(statement, parameters).fetchone()
        assert row is not None
        return row[0]

    def _column(self, statement: str) -> list[int]:
        return [value for (value,) in self.connection.execute(statement).fetchall()]


def wait_until_blocked(watcher: Connection, waiting: Connection) -> None:
    """Wait until a connection waits for a lock that another transaction holds."""

    def blocked() -> bool:
        pid = (waiting.info.backend_pid,)
        row = watcher.execute("select cardinality(pg_blocking_pids(%s))", pid).fetchone()
        return row is not None and row[0] > 0

    eventually(blocked, message="nobody had to wait")

"""PgQueuer by its asyncpg driver."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import psycopg

from benchmarks.peers.peer import Traits, decoder, encode, load
from benchmarks.tally import Counter, Job
from pgbus import Event

ENTRYPOINT = "handle"


class PgQueuer:
    """``enqueue`` of one and of lists; a ``QueueManager`` with one asynchronous entrypoint."""

    traits = Traits(
        "PgQueuer",
        "pgqueuer with asyncpg",
        durable=True,
        settings="PostgreSQL's defaults, durable tables",
        order="none",
    )

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._loop: asyncio.Runner | None = None
        # They stay open: what is measured are calls, and not connections.
        self._connected: list[tuple[Any, Any]] = []

    def open(self) -> None:
        """Connect; further callers do so when there is need of them, and stay connected."""
        load("asyncpg")
        load("pgqueuer")
        self._loop = asyncio.Runner()
        self._queries(1)

    def clear(self, kind: str) -> None:
        """Install its tables, or empty them."""
        del kind
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            row = connection.execute("select to_regclass('pgqueuer') is not null").fetchone()
            if row == (True,):
                connection.execute("truncate pgqueuer, pgqueuer_log")
            else:
                self._runner.run(self._queries(1)[0].install())

    def publish_each(self, events: Sequence[Event], callers: int) -> None:
        """Call ``enqueue`` for each, on as many connections as callers."""

        async def work(queries: Any, part: Sequence[Event]) -> None:
            for event in part:
                await queries.enqueue(ENTRYPOINT, encode(event))

        made = self._queries(callers)

        async def all_() -> None:
            parts = [events[place::callers] for place in range(callers)]
            await asyncio.gather(
                *(work(queries, part) for queries, part in zip(made, parts, strict=True))
            )

        self._runner.run(all_())

    def publish_many(self, events: Sequence[Event], size: int) -> None:
        """Call ``enqueue`` with lists."""

        async def work(queries: Any) -> None:
            for start in range(0, len(events), size):
                part = events[start : start + size]
                count = len(part)
                await queries.enqueue(
                    [ENTRYPOINT] * count, [encode(event) for event in part], [0] * count
                )

        self._runner.run(work(*self._queries(1)))

    def consume(self, job: Job, counter: Counter) -> None:
        """Run a queue manager until told to stop."""
        decode = decoder(job.kind)
        manager = load("pgqueuer.qm")

        async def work(queries: Any) -> None:
            worker = manager.QueueManager(queries)

            async def handle(found: Any) -> None:
                counter.handle(decode(found.payload))

            worker.entrypoint(ENTRYPOINT)(handle)
            counter.begin()
            watch = asyncio.create_task(_until_stopped(counter, worker.shutdown))
            await worker.run(
                dequeue_timeout=timedelta(seconds=1),
                batch_size=job.batch,
            )
            await watch

        self._runner.run(work(*self._queries(1)))

    def close(self) -> None:
        """Disconnect, and end the loop."""
        if self._loop is None:
            return
        for connection, _ in self._connected:
            self._loop.run(connection.close())
        self._loop.close()

    @property
    def _runner(self) -> asyncio.Runner:
        assert self._loop is not None
        return self._loop

    async def _connect(self) -> tuple[Any, Any]:
        connection = await load("asyncpg").connect(**_address(self._dsn))
        driver = load("pgqueuer.db").AsyncpgDriver(connection)
        return connection, load("pgqueuer.queries").Queries(driver)

    def _queries(self, callers: int) -> list[Any]:
        """Return what each caller calls, on a connection of its own."""
        while len(self._connected) < callers:
            self._connected.append(self._runner.run(self._connect()))
        return [queries for _, queries in self._connected[:callers]]


async def _until_stopped(counter: Counter, shutdown: asyncio.Event) -> None:
    while not counter.stopped():
        await asyncio.sleep(0.02)
    shutdown.set()


def _address(dsn: str) -> dict[str, Any]:
    """Return asyncpg's arguments for libpq's connection string."""
    names = {"host": "host", "port": "port", "user": "user", "dbname": "database"}
    names["password"] = "password"  # noqa: S105 - the name of an argument
    given = psycopg.conninfo.conninfo_to_dict(dsn)
    return {mine: given[theirs] for theirs, mine in names.items() if given.get(theirs)}

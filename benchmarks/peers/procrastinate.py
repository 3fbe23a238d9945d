"""Procrastinate by its psycopg connectors."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import msgspec
import psycopg

from benchmarks.peers.peer import Traits, converter, load, share
from benchmarks.tally import Counter, Job
from pgbus import Event

TASK = "handle"
CONCURRENCY = 10


class Procrastinate:
    """``defer`` and ``batch_defer``; a worker of ten concurrent asynchronous tasks."""

    traits = Traits(
        "Procrastinate",
        "procrastinate with psycopg",
        durable=True,
        settings="PostgreSQL's defaults",
        order="none",
    )

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._app: Any = None

    def open(self) -> None:
        """Open a synchronous application, as web processes that only defer do."""
        client = load("procrastinate")
        logging.getLogger("procrastinate").setLevel(logging.ERROR)
        connector = client.SyncPsycopgConnector(conninfo=self._dsn, min_size=1, max_size=8)
        self._app = client.App(connector=connector)
        self._app.open()

    def clear(self, kind: str) -> None:
        """Apply its schema, or empty its tables."""
        del kind
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            row = connection.execute(
                "select to_regclass('procrastinate_jobs') is not null"
            ).fetchone()
            if row == (True,):
                connection.execute("truncate procrastinate_jobs cascade")
            else:
                self._app.schema_manager.apply_schema()

    def publish_each(self, events: Sequence[Event], callers: int) -> None:
        """Call ``defer`` for each."""
        task = self._app.configure_task(TASK)

        def work(part: Sequence[Event]) -> None:
            for event in part:
                task.defer(**msgspec.to_builtins(event))

        share(events, callers, work)

    def publish_many(self, events: Sequence[Event], size: int) -> None:
        """Call ``batch_defer`` for each batch."""
        task = self._app.configure_task(TASK)
        for start in range(0, len(events), size):
            task.batch_defer(*map(msgspec.to_builtins, events[start : start + size]))

    def consume(self, job: Job, counter: Counter) -> None:
        """Run a worker until told to stop; it takes one job at a time, whatever the batch."""
        asyncio.run(self._work(job, counter))

    async def _work(self, job: Job, counter: Counter) -> None:
        client, make = load("procrastinate"), converter(job.kind)
        connector = client.PsycopgConnector(conninfo=self._dsn, min_size=1, max_size=CONCURRENCY)
        app = client.App(connector=connector)

        async def handle(**found: Any) -> None:
            counter.handle(make(found))

        app.task(handle, name=TASK)
        async with app.open_async():
            counter.begin()
            worker = asyncio.create_task(
                app.run_worker_async(
                    concurrency=1 if job.batch == 1 else CONCURRENCY,
                    install_signal_handlers=False,
                    delete_jobs="always",
                )
            )
            while not counter.stopped() and not worker.done():
                await asyncio.sleep(0.02)
            worker.cancel()
            await asyncio.gather(worker, return_exceptions=True)

    def close(self) -> None:
        """Close the application."""
        if self._app is not None:
            self._app.close()

"""NATS JetStream with file storage, by nats-py."""

import asyncio
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from benchmarks.measure import Missing
from benchmarks.peers.peer import Traits, decoder, encode, load
from benchmarks.tally import Counter, Job
from pgbus import Event

URL = os.environ.get("PGBUS_BENCH_NATS", "nats://127.0.0.1:14222")
STREAM, SUBJECT, DURABLE = "bench", "bench.events", "workers"
WAIT = 0.05


class JetStream:
    """``publish`` and ``publish_async``; a durable pull subscription, each message acknowledged."""

    traits = Traits(
        "NATS JetStream",
        "nats-py",
        durable=False,
        settings="file storage; confirmed before it is synchronised (every 2 minutes)",
        order="none with several consumers",
    )

    def __init__(self, dsn: str) -> None:
        del dsn
        self._loop = asyncio.Runner()
        self._connection: Any = None
        self._stream: Any = None

    def open(self) -> None:
        """Connect."""
        self._loop.run(self._open())

    async def _open(self) -> None:
        nats = load("nats")
        try:
            self._connection = await nats.connect(
                URL, allow_reconnect=False, connect_timeout=2, error_cb=_quiet
            )
        except Exception as error:  # the client has one for each step
            raise Missing(f"no NATS answers at {URL} (benchmarks/peers/setup)") from error
        self._stream = self._connection.jetstream(timeout=60)

    def clear(self, kind: str) -> None:
        """Make the stream anew."""
        del kind
        self._loop.run(self._clear())

    async def _clear(self) -> None:
        missing = load("nats.js.errors").NotFoundError
        storage = load("nats.js.api").StorageType.FILE
        with suppress(missing):
            await self._stream.delete_stream(STREAM)
        await self._stream.add_stream(name=STREAM, subjects=[SUBJECT], storage=storage)

    def publish_each(self, events: Sequence[Event], callers: int) -> None:
        """Await ``publish`` for each, in as many tasks as callers."""

        async def work(part: Sequence[Event]) -> None:
            for event in part:
                await self._stream.publish(SUBJECT, encode(event))

        async def all_() -> None:
            await asyncio.gather(*(work(events[place::callers]) for place in range(callers)))

        self._loop.run(all_())

    def publish_many(self, events: Sequence[Event], size: int) -> None:
        """Publish a batch without waiting, then wait for all of it."""

        async def work() -> None:
            for start in range(0, len(events), size):
                for event in events[start : start + size]:
                    await self._stream.publish_async(SUBJECT, encode(event))
                await self._stream.publish_async_completed()

        self._loop.run(work())

    def consume(self, job: Job, counter: Counter) -> None:
        """Fetch, handle, acknowledge; fetch again."""
        self._loop.run(self._consume(job, counter))

    async def _consume(self, job: Job, counter: Counter) -> None:
        decode = decoder(job.kind)
        config = load("nats.js.api").ConsumerConfig(max_ack_pending=4 * max(1000, job.batch))
        pulled = await self._stream.pull_subscribe(SUBJECT, durable=DURABLE, config=config)
        counter.begin()
        while not counter.stopped():
            try:
                messages = await pulled.fetch(job.batch, timeout=WAIT)
            except TimeoutError:
                continue
            for message in messages:
                counter.handle(decode(message.data))
                await message.ack()
        await self._connection.flush()

    def close(self) -> None:
        """Disconnect."""
        if self._connection is not None:
            self._loop.run(self._connection.close())
        self._loop.close()


async def _quiet(error: Exception) -> None:
    """Say nothing: what fails is raised as well."""
    del error

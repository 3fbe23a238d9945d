"""Redis Streams by redis-py, the append-only file synchronised before every reply.

redis-py parses replies in Python, or in C where hiredis is installed, which nearly doubles
how fast it consumes. Both are measured.
"""

import os
from collections.abc import Sequence
from typing import Any

from benchmarks.measure import Missing
from benchmarks.peers.peer import Traits, decoder, encode, load, share
from benchmarks.tally import Counter, Job
from pgbus import Event

URL = os.environ.get("PGBUS_BENCH_REDIS", "redis://127.0.0.1:16379/0")
STREAM, GROUP, FIELD = "bench", "workers", b"body"
WAIT = 50
"""Milliseconds that a read waits for events, so that the consumer sees when it is to stop."""


class RedisStreams:
    """``XADD``, one by one and in pipelines; ``XREADGROUP`` and ``XACK`` of whole batches."""

    traits = Traits(
        "Redis Streams",
        "redis-py",
        durable=True,
        settings="appendonly yes, appendfsync always",
        order="none with several consumers",
    )

    def __init__(self, dsn: str) -> None:
        del dsn
        self._client: Any = None

    def _parser(self) -> Any:
        return load("redis._parsers")._RESP2Parser

    def open(self) -> None:
        """Connect and check that the server synchronises."""
        redis = load("redis")
        pool = redis.ConnectionPool.from_url(URL, parser_class=self._parser(), protocol=2)
        client = redis.Redis.from_pool(pool)
        try:
            policy = client.config_get("append*")
        except redis.ConnectionError as error:
            raise Missing(f"no Redis answers at {URL} (benchmarks/peers/setup)") from error
        if policy.get("appendonly") != "yes" or policy.get("appendfsync") != "always":
            raise Missing("this Redis does not run with appendonly yes and appendfsync always")
        self._client = client

    def clear(self, kind: str) -> None:
        """Make the stream and its group anew."""
        del kind
        self._client.delete(STREAM)
        self._client.xgroup_create(STREAM, GROUP, id="0", mkstream=True)

    def publish_each(self, events: Sequence[Event], callers: int) -> None:
        """Call ``xadd`` for each."""
        client = self._client

        def work(part: Sequence[Event]) -> None:
            for event in part:
                client.xadd(STREAM, {FIELD: encode(event)})

        share(events, callers, work)

    def publish_many(self, events: Sequence[Event], size: int) -> None:
        """Execute a pipeline for each batch."""
        for start in range(0, len(events), size):
            pipeline = self._client.pipeline()
            for event in events[start : start + size]:
                pipeline.xadd(STREAM, {FIELD: encode(event)})
            pipeline.execute()

    def consume(self, job: Job, counter: Counter) -> None:
        """Read, handle, acknowledge; read again."""
        client, decode = self._client, decoder(job.kind)
        name = str(os.getpid())
        counter.begin()
        while not counter.stopped():
            found = client.xreadgroup(GROUP, name, {STREAM: ">"}, count=job.batch, block=WAIT)
            for _, entries in found or ():
                for _, fields in entries:
                    counter.handle(decode(fields[FIELD]))
                client.xack(STREAM, GROUP, *(entry for entry, _ in entries))

    def close(self) -> None:
        """Disconnect."""
        if self._client is not None:
            self._client.close()


class WithHiredis(RedisStreams):
    """The same, with replies parsed in C."""

    traits = RedisStreams.traits._replace(
        name="Redis Streams, hiredis", client="redis-py with hiredis"
    )

    def _parser(self) -> Any:
        load("hiredis")
        return load("redis._parsers")._HiredisParser

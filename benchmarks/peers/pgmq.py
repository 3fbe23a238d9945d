"""pgmq by its own Python client, plain and grouped."""

import time
from collections.abc import Sequence
from typing import Any

import msgspec
import psycopg

from benchmarks.peers.peer import Traits, converter, load, share
from benchmarks.tally import Counter, Job
from pgbus import Event
from pgbus.model.event import key_of

QUEUE = "plain"
VISIBILITY = 60
IDLE = 0.005


class Plain:
    """``send``, ``send_batch``, ``read`` and ``delete_batch``."""

    traits = Traits("pgmq", "pgmq", durable=True, settings="PostgreSQL's defaults", order="none")
    _grouped = False

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._queue: Any = None

    def open(self) -> None:
        """Make the client; the extension is in the database as plain SQL."""
        client = load("pgmq")
        self._queue = client.PGMQueue(conn_string=self._dsn, init_extension=False, pool_size=8)

    def clear(self, kind: str) -> None:
        """Create the queue, or empty it."""
        del kind
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            connection.execute("select pgmq.create(%s)", [QUEUE])
            connection.execute(f"truncate pgmq.q_{QUEUE}")
            if self._grouped:
                connection.execute("select pgmq.create_fifo_index(%s)", [QUEUE])

    def publish_each(self, events: Sequence[Event], callers: int) -> None:
        """Call ``send`` for each."""
        queue = self._queue

        def work(part: Sequence[Event]) -> None:
            for event in part:
                queue.send(QUEUE, msgspec.to_builtins(event), headers=_headers(event))

        share(events, callers, work)

    def publish_many(self, events: Sequence[Event], size: int) -> None:
        """Call ``send_batch`` for each batch."""
        for start in range(0, len(events), size):
            part = events[start : start + size]
            self._queue.send_batch(
                QUEUE,
                [msgspec.to_builtins(event) for event in part],
                headers=[_headers(event) for event in part],
            )

    def consume(self, job: Job, counter: Counter) -> None:
        """Read, handle, delete; read again."""
        queue, make = self._queue, converter(job.kind)
        counter.begin()
        while not counter.stopped():
            if self._grouped:
                messages = queue.read_grouped(QUEUE, vt=VISIBILITY, qty=job.batch)
            else:
                messages = queue.read_batch(QUEUE, vt=VISIBILITY, batch_size=job.batch)
            for message in messages:
                counter.handle(make(message.message))
            if len(messages) == 1:
                queue.delete(QUEUE, messages[0].msg_id)
            elif messages:
                queue.delete_batch(QUEUE, [message.msg_id for message in messages])
            else:
                time.sleep(IDLE)

    def close(self) -> None:
        """Close the client's pool."""
        if self._queue is not None:
            self._queue.close()


class Grouped(Plain):
    """The same, with ``read_grouped`` for an order per key."""

    traits = Traits(
        "pgmq grouped", "pgmq", durable=True, settings="PostgreSQL's defaults", order="per key"
    )
    _grouped = True


def _headers(event: Event) -> dict[str, str]:
    key = key_of(event)
    return {} if key is None else {"x-pgmq-group": key}

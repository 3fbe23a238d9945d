"""pgbus itself, by its public interface alone."""

from collections.abc import Callable, Sequence
from typing import Any

import psycopg

from benchmarks.orders import KINDS
from benchmarks.peers.peer import Traits, share
from benchmarks.tally import Counter, Job
from pgbus import Bus, Event
from pgbus.model.config import OnExhausted

QUEUE = "bench"
ROWS = "create table if not exists bought (number bigint, customer text)"
"""What handlers that write a row for each event write it to."""
INSERT = "insert into bought values (%s, %s)"
INSERT_MANY = "insert into bought select * from unnest(%s::bigint[], %s::text[])"


class Pgbus:
    """One bus, one subscription."""

    traits = Traits(
        "pgbus", "pgbus", durable=True, settings="PostgreSQL's defaults", order="per key"
    )

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._bus: Bus | None = None

    @property
    def bus(self) -> Bus:
        """The bus."""
        assert self._bus is not None
        return self._bus

    def open(self) -> None:
        """Make a bus; it connects when it is used."""
        self._bus = Bus(self._dsn, service="bench")

    def clear(self, kind: str) -> None:
        """Declare the subscription, or empty its queue."""
        declare(self._dsn, kind)
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            connection.execute(f"truncate pgmq.q_{QUEUE}")

    def publish_each(self, events: Sequence[Event], callers: int) -> None:
        """Call ``publish`` for each."""
        publish = self.bus.publish

        def work(part: Sequence[Event]) -> None:
            for event in part:
                publish(event)

        share(events, callers, work)

    def publish_many(self, events: Sequence[Event], size: int) -> None:
        """Call ``publish_many`` for each batch."""
        publish = self.bus.publish_many
        for start in range(0, len(events), size):
            publish(events[start : start + size])

    def consume(self, job: Job, counter: Counter) -> None:
        """Run a typed handler."""
        subscribe(self.bus, job, counter)
        counter.begin()
        with self.bus.running():
            counter.wait_for_stop()

    def close(self) -> None:
        """Close the bus."""
        if self._bus is not None:
            self._bus.close()


def declare(
    dsn: str, kind: str, queue: str = QUEUE, *patterns: str, on_exhausted: OnExhausted = "skip"
) -> None:
    """Create a subscription without running handlers, or change it.

    Parameters:
        patterns: what it is bound to; left out, the topic of the kind.
    """
    topic = KINDS[kind].__event_topic__
    assert topic is not None
    with Bus(dsn, service="bench") as bus:

        @bus.subscribe(*(patterns or (topic,)), name=queue, on_exhausted=on_exhausted)
        def handle(event: Any) -> None:
            """Is never called."""

        bus.declare()


def subscribe(bus: Bus, job: Job, counter: Counter) -> None:
    """Subscribe a handler of the job's kind and mode, annotated as users annotate theirs."""
    type_ = KINDS[job.kind]
    topic = type_.__event_topic__
    assert topic is not None
    handler = _handlers(counter.handle)[job.mode]
    options: dict[str, Any] = {
        "name": QUEUE,
        "concurrency": job.threads,
        "on_exhausted": job.on_exhausted,
    }
    if "events" in handler.__annotations__:
        handler.__annotations__["events"] = list[type_]  # type: ignore[valid-type]
        options["batch"] = job.batch
    else:
        handler.__annotations__["event"] = type_
    bus.subscribe(topic, **options)(handler)


def _handlers(take: Callable[[Event], None]) -> dict[str, Callable[..., None]]:
    """Return a handler for each mode; what it takes events of is still to be annotated."""

    def each(event: Any) -> None:
        take(event)

    def transaction(event: Any, connection: psycopg.Connection[Any]) -> None:
        del connection
        take(event)

    def batch(events: Any) -> None:
        for event in events:
            take(event)

    def insert(event: Any, connection: psycopg.Connection[Any]) -> None:
        connection.execute(INSERT, [event.number, event.customer])
        take(event)

    def insert_batch(events: Any, connection: psycopg.Connection[Any]) -> None:
        rows = [event.number for event in events], [event.customer for event in events]
        connection.execute(INSERT_MANY, rows)
        for event in events:
            take(event)

    return {
        "each": each,
        "transaction": transaction,
        "batch": batch,
        "insert": insert,
        "insert batch": insert_batch,
    }

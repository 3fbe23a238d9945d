"""RabbitMQ with a quorum queue, by pika."""

import os
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.measure import Missing
from benchmarks.peers.peer import Traits, decoder, encode, load, share
from benchmarks.tally import Counter, Job
from pgbus import Event

URL = os.environ.get("PGBUS_BENCH_RABBITMQ", "amqp://guest:guest@127.0.0.1:15673/%2F?heartbeat=0")
QUEUE = "bench"
WAIT = 0.05
PREFETCH = 4
"""Batches that the broker sends ahead of their acknowledgement."""


class RabbitMQ:
    """Publisher confirms; a consumer with prefetch that acknowledges whole batches."""

    traits = Traits(
        "RabbitMQ quorum",
        "pika",
        durable=True,
        settings="quorum queue of one node, persistent messages, confirmed",
        order="none with several consumers",
    )

    def __init__(self, dsn: str) -> None:
        del dsn
        self._pika: Any = None
        self._connection: Any = None

    def open(self) -> None:
        """Connect."""
        self._pika = load("pika")
        self._connection = self._connect()

    def _connect(self) -> Any:
        try:
            return self._pika.BlockingConnection(self._pika.URLParameters(URL))
        except self._pika.exceptions.AMQPConnectionError as error:
            raise Missing(f"no RabbitMQ answers at {URL} (benchmarks/peers/setup)") from error

    def clear(self, kind: str) -> None:
        """Make the queue anew."""
        del kind
        channel = self._connection.channel()
        channel.queue_delete(QUEUE)
        channel.queue_declare(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})
        channel.close()

    def _properties(self) -> Any:
        return self._pika.BasicProperties(delivery_mode=2)

    def publish_each(self, events: Sequence[Event], callers: int) -> None:
        """Publish on blocking connections that wait for each confirmation."""
        properties = self._properties()

        def work(part: Sequence[Event]) -> None:
            connection = self._connect()
            channel = connection.channel()
            channel.confirm_delivery()
            for event in part:
                channel.basic_publish("", QUEUE, encode(event), properties)
            connection.close()

        share(events, callers, work)

    def publish_many(self, events: Sequence[Event], size: int) -> None:
        """Publish on an asynchronous connection: a batch, then its confirmations."""
        Confirmed(self._pika, events, size, self._properties()).run()

    def consume(self, job: Job, counter: Counter) -> None:
        """Handle what is pushed, acknowledge every so many."""
        decode, size = decoder(job.kind), job.batch
        channel = self._connection.channel()
        channel.basic_qos(prefetch_count=PREFETCH * size)
        last = unacknowledged = 0

        def handle(_: Any, delivery: Any, __: Any, body: bytes) -> None:
            nonlocal last, unacknowledged
            counter.handle(decode(body))
            last = delivery.delivery_tag
            unacknowledged += 1
            if unacknowledged >= size:
                channel.basic_ack(last, multiple=True)
                unacknowledged = 0

        counter.begin()
        channel.basic_consume(QUEUE, handle)
        while not counter.stopped():
            self._connection.process_data_events(time_limit=WAIT)
            if unacknowledged:
                channel.basic_ack(last, multiple=True)
                unacknowledged = 0

    def close(self) -> None:
        """Disconnect."""
        if self._connection is not None and self._connection.is_open:
            self._connection.close()


class Confirmed:
    """Batches on a ``SelectConnection``, whose confirmations arrive by callback."""

    def __init__(self, pika: Any, events: Sequence[Event], size: int, properties: Any) -> None:
        self._pika = pika
        self._events = events
        self._size = size
        self._properties = properties
        self._sent = 0
        self._confirmed = 0
        self._channel: Any = None
        self._fault: BaseException | None = None
        self._connection: Any = None

    def run(self) -> None:
        """Publish everything."""
        self._connection = self._pika.SelectConnection(
            self._pika.URLParameters(URL),
            on_open_callback=lambda opened: opened.channel(on_open_callback=self._opened),
            on_open_error_callback=self._failed,
            on_close_callback=lambda *_: self._connection.ioloop.stop(),
        )
        self._connection.ioloop.start()
        if self._fault is not None:
            raise Missing(f"RabbitMQ: {self._fault}")
        if self._confirmed < len(self._events):
            raise Missing(f"RabbitMQ confirmed only {self._confirmed} events")

    def _failed(self, _: Any, error: BaseException) -> None:
        self._fault = error
        self._connection.ioloop.stop()

    def _opened(self, channel: Any) -> None:
        self._channel = channel
        done: Callable[[Any], None] = self._batch
        channel.confirm_delivery(self._answered, callback=done)

    def _batch(self, _: Any = None) -> None:
        part = self._events[self._sent : self._sent + self._size]
        self._sent += len(part)
        if not part:
            self._connection.close()
        for event in part:
            self._channel.basic_publish("", QUEUE, encode(event), self._properties)

    def _answered(self, frame: Any) -> None:
        if type(frame.method).__name__ != "Ack":
            self._fault = RuntimeError("refused a message")
            self._connection.close()
            return
        # Tags count from 1; `multiple` confirms all up to this one.
        if frame.method.multiple:
            self._confirmed = max(self._confirmed, frame.method.delivery_tag)
        else:
            self._confirmed += 1
        if self._confirmed >= self._sent:
            self._batch()

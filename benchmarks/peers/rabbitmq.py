"""RabbitMQ with a quorum queue, by pika."""

import os
from collections.abc import Sequence
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
        # They stay open: what is measured are publishes, and not connections.
        self._callers: list[tuple[Any, Any]] = []
        self._confirmed: Confirmed | None = None

    def open(self) -> None:
        """Connect; publishers do so when there is need of them, and stay connected."""
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

    def _channels(self, callers: int) -> list[Any]:
        """Return a channel that confirms for each caller, on a connection of its own."""
        while len(self._callers) < callers:
            connection = self._connect()
            channel = connection.channel()
            channel.confirm_delivery()
            self._callers.append((connection, channel))
        return [channel for _, channel in self._callers[:callers]]

    def publish_each(self, events: Sequence[Event], callers: int) -> None:
        """Publish on blocking connections that wait for each confirmation."""
        properties, channels = self._properties(), self._channels(callers)

        def work(part: Sequence[Event]) -> None:
            channel = channels.pop()
            for event in part:
                channel.basic_publish("", QUEUE, encode(event), properties)

        share(events, callers, work)

    def publish_many(self, events: Sequence[Event], size: int) -> None:
        """Publish on an asynchronous connection: a batch, then its confirmations."""
        if self._confirmed is None:
            self._confirmed = Confirmed(self._pika, self._properties())
        self._confirmed.publish(events, size)

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
        if self._confirmed is not None:
            self._confirmed.close()
        for connection in [self._connection, *(connection for connection, _ in self._callers)]:
            if connection is not None and connection.is_open:
                connection.close()


class Confirmed:
    """Batches on a ``SelectConnection`` that stays open, whose confirmations arrive by callback.

    Its loop runs while there is something to wait for.
    """

    def __init__(self, pika: Any, properties: Any) -> None:
        self._properties = properties
        self._events: Sequence[Event] = ()
        self._size = 1
        self._next = 0
        # Of all events so far: tags count over the whole life of a channel.
        self._sent = 0
        self._confirmed = 0
        self._channel: Any = None
        self._fault: BaseException | None = None
        self._connection: Any = pika.SelectConnection(
            pika.URLParameters(URL),
            on_open_callback=lambda opened: opened.channel(on_open_callback=self._opened),
            on_open_error_callback=self._failed,
            on_close_callback=lambda *_: self._connection.ioloop.stop(),
        )
        self._wait()

    def publish(self, events: Sequence[Event], size: int) -> None:
        """Publish everything."""
        self._events, self._size, self._next = events, size, 0
        wanted = self._sent + len(events)
        self._connection.ioloop.add_callback_threadsafe(self._batch)
        self._wait()
        if self._confirmed < wanted:
            missing = wanted - self._confirmed
            raise Missing(f"RabbitMQ did not confirm {missing} of {len(events)} events")

    def close(self) -> None:
        """Disconnect."""
        if self._connection.is_open:
            self._connection.close()
            self._connection.ioloop.start()

    def _wait(self) -> None:
        self._connection.ioloop.start()
        if self._fault is not None:
            raise Missing(f"RabbitMQ: {self._fault}")

    def _failed(self, _: Any, error: BaseException) -> None:
        self._fault = error
        self._connection.ioloop.stop()

    def _opened(self, channel: Any) -> None:
        self._channel = channel
        channel.confirm_delivery(self._answered, callback=self._ready)

    def _ready(self, _: Any) -> None:
        self._connection.ioloop.stop()

    def _batch(self) -> None:
        part = self._events[self._next : self._next + self._size]
        self._next += len(part)
        self._sent += len(part)
        if not part:
            self._connection.ioloop.stop()
        for event in part:
            self._channel.basic_publish("", QUEUE, encode(event), self._properties)

    def _answered(self, frame: Any) -> None:
        if type(frame.method).__name__ != "Ack":
            self._fault = RuntimeError("refused a message")
            self._connection.ioloop.stop()
            return
        # Tags count from 1; `multiple` confirms all up to this one.
        if frame.method.multiple:
            self._confirmed = max(self._confirmed, frame.method.delivery_tag)
        else:
            self._confirmed += 1
        if self._confirmed >= self._sent:
            self._batch()

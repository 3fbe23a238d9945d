"""Peers connect once, before the clock, and not in each call that is measured."""

from collections import deque
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from benchmarks.measure import Missing
from benchmarks.orders import orders
from benchmarks.peers import make, rabbitmq
from benchmarks.server import Server as Databases

from tests.servers.server import Server

EVENTS = orders(25, 5)


class Loop:
    """Pika's, without a socket: callbacks one after the other, until it is stopped."""

    def __init__(self) -> None:
        self.due: deque[Callable[[], object]] = deque()
        self.stopped = False

    def add_callback_threadsafe(self, callback: Callable[[], object]) -> None:
        self.due.append(callback)

    def start(self) -> None:
        while not self.stopped:
            self.due.popleft()()  # fails where it would wait for ever
        self.stopped = False

    def stop(self) -> None:
        self.stopped = True


class Ack:
    def __init__(self, tag: int, *, multiple: bool) -> None:
        self.delivery_tag = tag
        self.multiple = multiple


class Nack(Ack):
    pass


class Broker:
    """Counts connections and what is published, and confirms every second message for two."""

    def __init__(self, answer: type[Ack] = Ack) -> None:
        self.connections = 0
        self.published = 0
        self.answer = answer
        self.pika = SimpleNamespace(
            BlockingConnection=self.blocking,
            SelectConnection=self.select,
            URLParameters=lambda url: url,
            BasicProperties=lambda **given: given,
            exceptions=SimpleNamespace(AMQPConnectionError=OSError),
        )

    def publish(self, *_: Any) -> None:
        self.published += 1

    def blocking(self, _: str) -> Any:
        self.connections += 1
        channel = SimpleNamespace(basic_publish=self.publish, confirm_delivery=lambda: None)
        return SimpleNamespace(channel=lambda: channel, is_open=False)

    def select(self, _: str, *, on_open_callback: Callable[[Any], object], **__: Any) -> Any:
        self.connections += 1
        loop, tags = Loop(), iter(range(1, 1_000))
        made: Any = SimpleNamespace(ioloop=loop, is_open=False)

        def confirm_delivery(
            answered: Callable[[Any], object], callback: Callable[[Any], object]
        ) -> None:
            loop.due.append(lambda: callback(None))
            made.answered = answered

        def publish(*_: Any) -> None:
            self.publish()
            tag = next(tags)
            if tag % 2 == 0 or tag % 5 == 0:
                frame = SimpleNamespace(method=self.answer(tag, multiple=True))
                loop.due.append(lambda: made.answered(frame))

        channel = SimpleNamespace(basic_publish=publish, confirm_delivery=confirm_delivery)
        made.channel = lambda on_open_callback: loop.due.append(lambda: on_open_callback(channel))
        loop.due.append(lambda: on_open_callback(made))
        return made


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    made = Broker()
    monkeypatch.setattr(rabbitmq, "load", lambda _: made.pika)
    return made


def test_rabbitmq_connects_once_for_each_caller(broker: Broker) -> None:
    peer = make("rabbitmq", "")
    peer.open()
    for callers in (2, 2, 1):
        peer.publish_each(EVENTS, callers)
    assert (broker.published, broker.connections) == (75, 3)  # its own, and one a caller


def test_rabbitmq_publishes_batch_after_batch_on_one_connection(broker: Broker) -> None:
    peer = make("rabbitmq", "")
    peer.open()
    for size in (10, 25, 5):
        peer.publish_many(EVENTS, size)
    assert (broker.published, broker.connections) == (75, 2)


def test_a_message_that_rabbitmq_refuses_is_a_failure(broker: Broker) -> None:
    broker.answer = Nack
    peer = make("rabbitmq", "")
    peer.open()
    with pytest.raises(Missing, match="refused a message"):
        peer.publish_many(EVENTS, 10)


@pytest.fixture
def database(server: Server) -> Iterator[str]:
    with Databases(server.dsn()) as databases, databases.database() as dsn:
        yield dsn


def test_pgqueuer_connects_once_for_each_caller(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncpg = pytest.importorskip("asyncpg")
    pytest.importorskip("pgqueuer")
    connect, made = asyncpg.connect, []

    async def counted(**given: Any) -> Any:
        made.append(given)
        return await connect(**given)

    monkeypatch.setattr(asyncpg, "connect", counted)
    peer = make("pgqueuer", database)
    peer.open()
    try:
        assert len(made) == 1
        peer.clear("order")
        peer.publish_each(EVENTS, 2)
        assert len(made) == 2
        peer.publish_each(EVENTS, 2)
        peer.publish_many(EVENTS, 10)
        peer.clear("order")
        assert len(made) == 2
    finally:
        peer.close()

"""Replies are read, whatever the environment says of texts; one that cannot be is given back."""

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgbus import Bus, Event, Retry
from pgbus.store.leases import Taken
from tests.waiting import eventually


class Created(Event, topic="orders.created", key="order"):
    order: str
    text: str


@pytest.mark.parametrize("place", ["dsn", "environment"])
def test_texts_pass_whatever_the_client_encoding(
    bus_dsn: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if place == "dsn":
        bus_dsn = make_conninfo(bus_dsn, client_encoding="latin1")
    else:
        monkeypatch.setenv("PGCLIENTENCODING", "latin1")
    handled: list[str] = []
    texts = ["caf\u00e9", "\u20ac", "\U0001f600"]
    with Bus(bus_dsn) as bus:

        @bus.subscribe("orders.*", name="billing", retry=Retry(max_attempts=1))
        def on_order(event: Created, connection: psycopg.Connection[tuple[str]]) -> None:
            assert connection.execute("select %s::text", (event.text,)).fetchone() == (event.text,)
            handled.append(event.text)
            raise ValueError(event.text)

        bus.declare()
        bus.publish_many([Created(order=text, text=text) for text in texts])
        with bus.running():
            assert bus.wait_idle(20)
        assert sorted(handled) == sorted(texts)
        told = sorted(str(letter.error) for letter in bus.dead_letters("billing"))
        assert told == [f"ValueError: {text}" for text in sorted(texts)]


def test_a_reply_that_cannot_be_read_is_given_back(
    bus_dsn: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """There may be no memory for it, for one; later there is."""
    read = Taken.read
    failures: list[str] = []

    def without_memory(self: Taken) -> object:
        if self.lanes and len(failures) < 3:
            failures.append("no memory")
            raise MemoryError
        return read(self)

    monkeypatch.setattr(Taken, "read", without_memory)
    handled: list[str] = []
    with Bus(bus_dsn, lease=1.0) as bus:

        @bus.subscribe("orders.*", name="billing", concurrency=2)
        def on_order(event: Created) -> None:
            handled.append(event.text)

        with bus.running():
            for number in range(3):
                bus.publish(Created(order="a", text=str(number)))
            assert bus.wait_idle(20)
            assert bus._engine is not None
            [subscription] = bus._engine._subscriptions
            eventually(lambda: subscription._in_hand == 0)
    assert handled == ["0", "1", "2"]
    assert len(failures) == 3
    assert "what was taken for billing could not be read" in caplog.text

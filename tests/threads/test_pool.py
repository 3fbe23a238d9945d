"""The connections that publishing borrows, after they broke."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from pgbus import Bus
from tests.proxy import FaultProxy
from tests.waiting import eventually

MANY = 4


@pytest.fixture
def way(bus_dsn: str) -> Iterator[FaultProxy]:
    with FaultProxy(bus_dsn) as proxy:
        yield proxy


@pytest.fixture
def publisher(way: FaultProxy) -> Iterator[Bus]:
    """A bus that has published, and so has its pool."""
    with Bus(way.dsn) as bus:
        bus.publish("a", {})
        yield bus


def test_any_number_of_broken_connections_delays_a_publish_by_no_more_than_one(
    way: FaultProxy, publisher: Bus, bus_dsn: str
) -> None:
    with ThreadPoolExecutor(MANY) as threads, psycopg.connect(bus_dsn) as gate:
        gate.execute("lock table pgbus.subscription")
        asking = [threads.submit(publisher.status) for _ in range(MANY)]
        eventually(lambda: way.connections >= MANY, message="the pool did not grow")
        gate.rollback()
        for one in asking:
            one.result()
    way.cut()
    began = time.monotonic()
    publisher.publish("a", {})
    # psycopg's own check would have slept for 1, 2 and 4 seconds in between.
    assert time.monotonic() - began < 3.0


def test_however_long_the_server_was_away_a_publish_waits_for_it_no_longer_than_needed(
    way: FaultProxy, publisher: Bus
) -> None:
    with ThreadPoolExecutor(1) as threads:
        way.refuse()
        tries = way.accepted
        publishing = threads.submit(publisher.publish, "a", {})
        # The pool alone would by now wait for 4 seconds, and then for 8.
        eventually(lambda: way.accepted >= tries + 6, message="it tries too seldom")
        way.accept()
        back = time.monotonic()
        publishing.result()
        assert time.monotonic() - back < 3.5

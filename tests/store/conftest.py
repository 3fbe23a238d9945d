"""What the tests of the store need: connections to step by hand, and threads that may wait."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from tests.store.queue import Connection, Queue


@pytest.fixture
def aside() -> Iterator[ThreadPoolExecutor]:
    """Threads for statements that wait for another connection's transaction."""
    with ThreadPoolExecutor(max_workers=20) as threads:
        yield threads


@pytest.fixture
def connect(aside: ThreadPoolExecutor) -> Iterator[Callable[[str], Connection]]:
    """Open connections in autocommit; one that still waits at the end is cancelled."""
    made: list[Connection] = []

    def open_one(dsn: str) -> Connection:
        made.append(psycopg.connect(dsn, autocommit=True))
        made[-1].execute("set lock_timeout = '10s'")  # a test that deadlocks itself shall fail
        return made[-1]

    yield open_one
    for connection in made:
        if connection.info.transaction_status == TransactionStatus.ACTIVE:
            connection.cancel_safe()
        else:
            connection.close()


@pytest.fixture
def connection(connect: Callable[[str], Connection], bus_dsn: str) -> Connection:
    """A connection to a database with pgbus, in autocommit."""
    return connect(bus_dsn)


@pytest.fixture
def another(connect: Callable[[str], Connection], bus_dsn: str) -> Callable[[], Connection]:
    """Open further connections to the database of ``connection``."""
    return lambda: connect(bus_dsn)


@pytest.fixture
def queue(connection: Connection) -> Queue:
    """An ordered subscription, ``billing``."""
    return Queue(connection)

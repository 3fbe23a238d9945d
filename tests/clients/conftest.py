"""What the tests of foreign clients need."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from pgmq import PGMQueue
from psycopg_pool import ConnectionPool


@pytest.fixture
def client(bus_dsn: str) -> Iterator[PGMQueue]:
    """The pgmq Python client, on the bus's database."""
    with ConnectionPool[psycopg.Connection[Any]](bus_dsn, min_size=1, max_size=2) as pool:
        yield PGMQueue(pool=pool, init_extension=False)


@pytest.fixture
def sql(bus_dsn: str) -> Iterator[psycopg.Connection]:
    """A client that knows SQL alone; autocommit."""
    with psycopg.connect(bus_dsn, autocommit=True) as connection:
        yield connection

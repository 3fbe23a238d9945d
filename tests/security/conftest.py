"""A database with roles, and buses that log in with one of them."""

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from pgbus import Bus
from tests.security.house import GROUPS, House, a_house
from tests.servers import Server

Connection = psycopg.Connection[tuple[Any, ...]]
BusAs = Callable[..., Bus]
ConnectAs = Callable[[str], Connection]


@pytest.fixture(scope="session")
def template(server: Server) -> Iterator[tuple[House, str]]:
    with a_house(server, "billing", "shipping") as (house, dsn):
        for kind, group in GROUPS.items():
            house.hire(kind, group=group)
        yield house, dsn


@pytest.fixture
def house(template: tuple[House, str]) -> House:
    return template[0]


@pytest.fixture
def db(template: tuple[House, str], new_database: Callable[..., str]) -> str:
    """A database with the subscriptions ``billing`` and ``shipping``, and roles; as superuser."""
    dsn = new_database(template[1])
    name = sql.Identifier(str(conninfo_to_dict(dsn)["dbname"]))
    with psycopg.connect(dsn, autocommit=True) as connection:
        owner = sql.Identifier(template[0].role("owner"))
        connection.execute(sql.SQL("grant create on database {} to {}").format(name, owner))
    return dsn


@pytest.fixture
def bus_as(house: House, db: str) -> Iterator[BusAs]:
    """Make buses that log in as somebody: ``bus_as(kind, **settings)``."""
    made: list[Bus] = []

    def make(kind: str, **settings: Any) -> Bus:
        made.append(Bus(house.dsn(db, kind), **settings))
        return made[-1]

    yield make
    for bus in made:
        bus.close()


@pytest.fixture
def connect_as(house: House, db: str) -> Iterator[ConnectAs]:
    """Open connections, in autocommit, as somebody; ``""`` is the superuser."""
    made: list[Connection] = []

    def connect(kind: str) -> Connection:
        dsn = house.dsn(db, kind) if kind else db
        made.append(psycopg.connect(dsn, autocommit=True))
        return made[-1]

    yield connect
    for connection in made:
        connection.close()

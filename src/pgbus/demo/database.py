"""A database that lives as long as the demonstration."""

from collections.abc import Iterator
from contextlib import contextmanager

from psycopg import sql
from psycopg.conninfo import make_conninfo

from pgbus.threads.link import connect, translated

NAME = "pgbus_demo"


@contextmanager
def own_database(dsn: str) -> Iterator[str]:
    """Make an empty database beside that of ``dsn``, and drop it at the end.

    What an earlier demonstration left that was killed is dropped first.

    Yields:
        Its connection string.

    Raises:
        StoreError: another demonstration is connected to it, or the server refused.
    """
    name = sql.Identifier(NAME)
    drop = sql.SQL("drop database if exists {}").format(name)
    with translated(), connect(dsn, name="pgbus demo") as connection:
        connection.execute(drop)
        connection.execute(sql.SQL("create database {} template template0").format(name))
    try:
        yield make_conninfo(dsn, dbname=NAME)
    finally:
        with translated(), connect(dsn, name="pgbus demo") as connection:
            connection.execute(drop)

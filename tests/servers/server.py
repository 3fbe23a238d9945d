"""What a test may ask of any PostgreSQL server, wherever it comes from."""

import secrets
from abc import ABC, abstractmethod
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict


class NoServerError(Exception):
    """This source of PostgreSQL cannot be used here; the message says what is missing."""


class Server(ABC):
    """A PostgreSQL server on which the suite may create databases."""

    # The folder of the server's programs, where they are on this machine.
    bin_dir: Path | None = None

    @abstractmethod
    def start(self) -> None:
        """Accept connections, or raise NoServerError."""

    @abstractmethod
    def close(self) -> None:
        """Release what start took. Safe before start and twice."""

    @abstractmethod
    def dsn(self, dbname: str = "postgres") -> str:
        """Connect to ``dbname`` with this."""

    @property
    def major(self) -> int:
        with psycopg.connect(self.dsn(), autocommit=True) as connection:
            return connection.info.server_version // 10_000

    @property
    def _copying(self) -> sql.SQL:
        """How a new database is copied; empty for PostgreSQL's own choice."""
        return sql.SQL("")

    def create_database(self, template: str | None = None) -> str:
        """Create a database from ``template`` (a name, or the DSN of one) and return its DSN.

        A template must have no connections at that moment; PostgreSQL waits 5 s for them to leave.
        """
        name = f"pgbus_test_{secrets.token_hex(6)}"
        # template0 and not template1: nobody can be connected to it.
        source = "template0" if template is None else database_name(template)
        self._administer(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} {}").format(
                sql.Identifier(name), sql.Identifier(source), self._copying
            )
        )
        return self.dsn(name)

    def drop_database(self, database: str) -> None:
        """Drop the database of this name or DSN, disconnecting whoever is still there."""
        self._administer(
            sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(
                sql.Identifier(database_name(database))
            )
        )

    def _administer(self, statement: sql.Composed) -> None:
        with psycopg.connect(self.dsn(), autocommit=True) as connection:
            connection.execute(statement)


def database_name(database: str) -> str:
    """Return the name of a database given by its name or by its DSN."""
    if "=" not in database and "://" not in database:
        return database
    return str(conninfo_to_dict(database)["dbname"])

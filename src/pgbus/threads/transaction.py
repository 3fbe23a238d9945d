"""The transactions of one worker's handler, on a connection of its own."""

from typing import Any, NoReturn

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow

from pgbus.store.handling import begin_handling
from pgbus.store.query import run
from pgbus.threads.link import Link
from pgbus.threads.server import Server
from pgbus.threads.session import Session


class HandlerConnection(psycopg.Connection[TupleRow]):
    """What a transactional handler gets: its transaction is pgbus's to end."""

    def commit(self) -> NoReturn:
        """Refuse.

        Raises:
            psycopg.ProgrammingError: always.
        """
        raise psycopg.ProgrammingError(
            "the handler's transaction is committed by pgbus, with the acknowledgement"
        )

    def rollback(self) -> NoReturn:
        """Refuse; ``with connection.transaction()`` makes savepoints.

        Raises:
            psycopg.ProgrammingError: always.
        """
        raise psycopg.ProgrammingError(
            "the handler's transaction is rolled back by pgbus, when the handler raises"
        )


class Transactions:
    """See the module. The connection bears the session's id, and is made anew with it.

    A transaction may have begun with the end of the last one, for an event that was to follow at
    once: :meth:`roll_back` is due where none did.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._link: Link | None = None
        self._link_name = ""

    def begin(self, session: Session) -> "psycopg.Connection[Any]":
        """Return the connection, with a transaction begun.

        Raises:
            psycopg.Error, PgbusError: there is no connection to be had.
        """
        link = self._own_link(session)
        if not link.usable:
            link.drop()
        connection = link.connection()
        if connection.pgconn.transaction_status == TransactionStatus.IDLE:
            run(connection, begin_handling())
        return connection

    def roll_back(self) -> None:
        """Roll back what was begun, whatever state it is in."""
        if self._link is None or not self._link.connected:
            return
        connection = self._link.connection()
        try:
            if connection.pgconn.transaction_status != TransactionStatus.IDLE:
                connection.execute("rollback")
        except psycopg.Error:  # the server rolls back what is closed
            self._link.drop()

    @property
    def usable(self) -> bool:
        """Whether the connection works as far as anyone has seen."""
        return self._link is not None and self._link.usable

    def close(self) -> None:
        """Close the connection."""
        if self._link is not None:
            self._link.drop()

    def _own_link(self, session: Session) -> Link:
        name = f"pgbus/{session.id:x}"
        if self._link is None or self._link_name != name:
            self.close()
            self._link = Link(self._server, lambda: name, HandlerConnection, may_idle=True)
            self._link_name = name
        return self._link

"""The transactions of one worker's handler, on a connection of its own."""

from collections.abc import Sequence
from typing import Any, NoReturn

import psycopg
from psycopg.pq import TransactionStatus as Status
from psycopg.rows import TupleRow

from pgbus.errors import PgbusError
from pgbus.store.handling import begin_handling, end_handling, roll_back_handling
from pgbus.store.settle import LaneSettlement
from pgbus.threads.call import Watchdog
from pgbus.threads.link import LONG, Link
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


class Undecided(PgbusError):
    """A handler's transaction may have been committed, or not."""


class Transactions:
    """See the module. The connection bears the session's id, and is made anew with it.

    How long a handler's own statements may take is the handler's affair; the watchdog looks after
    those that begin its transaction and end it.
    """

    def __init__(self, server: Server, watchdog: Watchdog) -> None:
        self._server = server
        self._watchdog = watchdog
        self._link: Link | None = None
        self._session = 0
        # Whether one began with the end of the last, for an event that was to follow at once.
        self._ahead = False

    def begin(self, session: Session) -> "psycopg.Connection[Any]":
        """Return the connection, with a transaction begun.

        Raises:
            psycopg.Error, PgbusError: there is no connection to be had.
        """
        link = self._own_link(session)
        ahead, self._ahead = self._ahead, False
        connection = link.connection()
        if connection.pgconn.transaction_status != (Status.INTRANS if ahead else Status.IDLE):
            link.drop()
            connection, ahead = link.connection(), False
        if not ahead:
            with link.watched:
                begin_handling(connection)
        return connection

    def end(
        self,
        connection: "psycopg.Connection[Any]",
        name: str,
        worker: int,
        lanes: Sequence[LaneSettlement],
        *,
        more: bool,
    ) -> None:
        """Settle and commit; see :func:`pgbus.store.handling.end_handling`.

        Raises:
            PgbusError: the handler has closed the connection, or left a statement unfinished.
            Undecided: whether it was committed is unknown.
            psycopg.Error, LeaseLost: see there, too.
        """
        if connection.closed and not connection.broken:
            raise PgbusError("the handler closed the connection that pgbus gave it")
        if connection.pgconn.transaction_status == Status.ACTIVE:
            raise PgbusError("the handler left a statement unfinished on its connection")
        assert self._link is not None
        try:
            with self._link.watched:
                end_handling(connection, name, worker, lanes, more=more)
        except psycopg.errors.QueryCanceled as error:
            if connection.pgconn.transaction_status != Status.IDLE:
                raise
            # What was cancelled is the COMMIT, or what follows it.
            raise Undecided("whether the handler's transaction was committed is unknown") from error
        self._ahead = more

    def roll_back(self) -> None:
        """Roll back what was begun; a connection in another state is closed."""
        self._ahead = False
        if self._link is None or not self._link.connected:
            return
        connection = self._link.connection()
        status = connection.pgconn.transaction_status
        try:
            if status in (Status.INTRANS, Status.INERROR):
                with self._link.watched:
                    roll_back_handling(connection)
            elif status != Status.IDLE:
                self._link.drop()
        except psycopg.Error:  # the server rolls back what is closed
            self._link.drop()

    def give_up(self) -> None:
        """Have what was begun rolled back; called by another thread, while this one may hang."""
        link = self._link
        if link is not None:
            link.give_up()

    def close(self) -> None:
        """Close the connection."""
        self._ahead = False
        if self._link is not None:
            self._watchdog.leave(self._link)
            self._link.drop()
            self._link = None

    def _own_link(self, session: Session) -> Link:
        if self._link is None or self._session != session.id:
            self.close()
            name = f"pgbus/{session.id:x}"
            self._link = Link(self._server, lambda: name, HandlerConnection, may_idle=True)
            self._link.patience = LONG
            self._session = session.id
            self._watchdog.guard(self._link)
        return self._link

"""Connections of the bus's own: how they are made, how they break, how they are made anew."""

import logging
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow, tuple_row

from pgbus.core.account import exc_info
from pgbus.core.chance import CHANCE
from pgbus.errors import PgbusError, StoreError
from pgbus.store.migrate import NOT_INSTALLED
from pgbus.store.query import Operation, run
from pgbus.threads.pooling import configure, is_pooled
from pgbus.threads.server import Server

logger = logging.getLogger(__name__)

R = TypeVar("R")

CONNECT_TIMEOUT = 10
STALL = 15.0
"""Seconds after which a statement of the bus's own is taken for a stalled link."""
LONG = 4.0
"""How often as long that is for one that carries work of the user's: a publish of any size, the
commit of a handler's transaction."""
INTERRUPTED = 0.1
"""Seconds that a thread gets to end once its socket is shut."""

MOST_TEXT = 500
_LINES = re.compile(r"\s+")
_OF_QUEUE = re.compile(r"pgbus\.(?:take|settle|bury)_")

# A session that the server ended, or that turned read-only after a failover, is of no more use.
_DROP_SESSION = ("25006", "57P01", "57P02", "57P03", "57P05")
_MISSING = (
    psycopg.errors.UndefinedFunction,
    psycopg.errors.UndefinedTable,
    psycopg.errors.InvalidSchemaName,
)


def connect(dsn: str, *, name: str) -> "psycopg.Connection[TupleRow]":
    """Open a connection as every part of the bus wants it.

    Parameters:
        dsn: libpq's connection string or URI.
        name: what ``pg_stat_activity`` shows as ``application_name``.

    Raises:
        psycopg.Error: no connection could be made.
        ConfigurationError: see :func:`pgbus.threads.pooling.configure`.
    """
    connection = psycopg.connect(dsn, **settings(dsn, name))
    try:
        configure(connection, may_idle=False)
    except BaseException:
        connection.close()
        raise
    return connection


def settings(dsn: str, name: str) -> dict[str, Any]:
    """Return what every connection is opened with.

    Among it are libpq's settings that notice a dead link, but for those that the DSN sets itself.
    Text is UTF-8, whatever the DSN or the environment say: what is fetched is read as that.
    """
    defaults: dict[str, Any] = {
        "connect_timeout": CONNECT_TIMEOUT,
        "keepalives": 1,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": int(STALL * 1000),
    }
    given = conninfo_to_dict(dsn)
    kept = {key: value for key, value in defaults.items() if key not in given}
    return {
        **kept,
        "client_encoding": "utf8",
        "autocommit": True,
        "row_factory": tuple_row,
        "application_name": name,
    }


def is_over(connection: "psycopg.Connection[Any]", error: psycopg.Error) -> bool:
    """Return whether a connection is of no more use after an error."""
    return connection.closed or connection.broken or error.sqlstate in _DROP_SESSION


def as_store_error(error: psycopg.Error, *, outcome_unknown: bool = False) -> PgbusError:
    """Return what the user sees of a driver's error: no payload, no password, what to do.

    PostgreSQL's messages can quote data, so only its code and kind are repeated; the driver's error
    is the cause.
    """
    if isinstance(error, _MISSING):
        return StoreError(_missing(error))
    if isinstance(error, psycopg.errors.ObjectInUse | psycopg.errors.DuplicateObject):
        return StoreError(str(error.diag.message_primary))
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return StoreError(_refused(error))
    if error.sqlstate is None:
        text = "PostgreSQL could not be reached, or the connection to it broke"
        if isinstance(error, psycopg.OperationalError):
            # libpq's own words: they come before any data is sent, and never hold a password.
            text += f": {_LINES.sub(' ', str(error))[:MOST_TEXT]}"
    else:
        text = f"PostgreSQL refused: {type(error).__name__} ({error.sqlstate})"
    if outcome_unknown:
        text += "; whether the change was committed is unknown"
    return StoreError(text, outcome_unknown=outcome_unknown)


def _missing(error: psycopg.Error) -> str:
    """Say what is missing: pgbus altogether, or a queue that was dropped meanwhile."""
    text = error.diag.message_primary or ""
    if "pgmq.q_" in text or _OF_QUEUE.search(text):
        return (
            "a subscription was dropped or renamed while it was in use; publish again, or declare "
            "it anew with start() or declare()"
        )
    return NOT_INSTALLED


def _refused(error: psycopg.Error) -> str:
    """Say which right is missing: these messages name objects and roles, never data."""
    hint = error.diag.message_hint or (
        "the role that the bus logs in with needs one of those that 'pgbus install --roles' makes"
    )
    return f"PostgreSQL refused: {error.diag.message_primary}: {hint}"


@contextmanager
def translated() -> Iterator[None]:
    """Turn driver errors into :class:`pgbus.StoreError`, keeping the cause."""
    try:
        yield
    except psycopg.Error as error:
        raise as_store_error(error) from error


def sever(connection: "psycopg.Connection[Any]") -> None:
    """Shut a connection's socket from another thread: whoever waits on it gets an error."""
    with (
        suppress(OSError, psycopg.Error),
        socket.socket(fileno=os.dup(connection.fileno())) as handle,
    ):
        if not connection.closed:  # else the number may have been another's when it was copied
            handle.shutdown(socket.SHUT_RDWR)


def _cancel_and_sever(connection: "psycopg.Connection[Any]") -> None:
    with suppress(psycopg.Error):
        connection.cancel_safe(timeout=STALL)
    sever(connection)


class _Watched:
    """A block in which the watchdog cuts what waits too long; any number, one after the other."""

    __slots__ = ("_link",)

    def __init__(self, link: "Link") -> None:
        self._link = link

    def __enter__(self) -> None:
        self._link.cut = False
        self._link.busy_since = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._link.busy_since = None


class Link:
    """One connection that one thread of the bus uses, and that is made anew after it broke.

    Only its thread calls :meth:`run`; the watchdog reads ``busy_since`` and may sever it.

    Parameters:
        name: returns the ``application_name`` of the next connection.
        kind: what it is an object of.
        may_idle: see :func:`pgbus.threads.pooling.configure`.
    """

    def __init__(
        self,
        server: Server,
        name: Callable[[], str],
        kind: "type[psycopg.Connection[TupleRow]]" = psycopg.Connection,
        may_idle: bool = False,
    ) -> None:
        self._name = name
        self._kind = kind
        self._may_idle = may_idle
        self._server = server
        self._connection: psycopg.Connection[TupleRow] | None = None
        self.busy_since: float | None = None
        # Written by the link's thread, read by the watchdog: how often STALL a statement may take.
        self.patience = 1.0
        # Written by the watchdog, and cleared before each statement: whether it cut the last one.
        self.cut = False
        self.watched = _Watched(self)

    @property
    def connected(self) -> bool:
        """Whether there is a connection that has not been seen to break."""
        return self._connection is not None

    @property
    def pooled(self) -> bool:
        """Whether a pooler lies in between; opens the connection where there is none.

        Raises:
            psycopg.Error, PgbusError: no connection could be made.
        """
        return is_pooled(self.connection())

    def connection(self) -> "psycopg.Connection[TupleRow]":
        """Return the connection, opening it where there is none.

        Raises:
            psycopg.Error, StoreError: no connection could be made.
        """
        if self._connection is None:
            dsn = self._server.dsn()
            self._connection = self._kind.connect(dsn, **settings(dsn, self._name()))
            # From here on it can be interrupted, and the watchdog looks after it.
            self.busy_since = time.monotonic()
            try:
                configure(self._connection, may_idle=self._may_idle)
            except BaseException:
                self.drop()
                raise
            finally:
                self.busy_since = None
        return self._connection

    def run(self, operation: Callable[[], Operation[R]]) -> R:
        """Run an operation; each of its statements commits by itself.

        Raises:
            psycopg.Error: the driver's error; a broken connection is dropped.
        """
        return self.do(lambda connection: run(connection, operation()))

    def do(self, work: "Callable[[psycopg.Connection[TupleRow]], R]") -> R:
        """Let ``work`` use the connection, watched.

        Raises:
            psycopg.Error: see :meth:`run`; errors of ``work`` pass through, and drop the connection
                if they are not pgbus's own.
        """
        connection = self.connection()
        try:
            with self.watched:
                return work(connection)
        except psycopg.Error as error:
            if is_over(connection, error):
                self.drop()
            raise
        except PgbusError:
            raise
        except BaseException:  # amid anything: who knows what the connection still waits for
            self.drop()
            raise

    def sever_if_stalled(self, now: float) -> None:
        """Shut the socket of a statement that has waited too long; called by the watchdog."""
        since, connection = self.busy_since, self._connection
        limit = STALL * self.patience
        if since is not None and connection is not None and now - since > limit:
            logger.warning(
                "a statement of %s got no reply for %.0f s: reconnecting", self._name(), limit
            )
            self.cut = True
            sever(connection)

    def interrupt(self) -> None:
        """Shut the socket, to end a wait of the link's own thread."""
        connection = self._connection
        if connection is not None:
            sever(connection)

    def give_up(self) -> None:
        """Have the server roll back what its thread, which may hang anywhere, has begun.

        Called by another thread, which is kept waiting for nothing. A server that is amid a
        statement does not see that the socket is shut, so that is cancelled first.
        """
        connection = self._connection
        if connection is None:
            return
        if connection.pgconn.transaction_status == TransactionStatus.ACTIVE:
            cancel = threading.Thread(
                target=_cancel_and_sever, args=[connection], name="pgbus-cancel", daemon=True
            )
            try:
                cancel.start()
            except RuntimeError:  # the system has no more threads
                logger.warning("a statement of a handler that was given up is not cancelled")
            else:
                return
        sever(connection)

    def drop(self) -> None:
        """Close the connection; the next use opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(psycopg.Error):
                connection.close()


def join(thread: threading.Thread, link: Link, until: float) -> bool:
    """Wait for the thread of a link to end; return whether it has.

    At ``until`` (of the monotonic clock) its socket is shut, so that a stalled link holds up no
    shutdown. A thread that even then does not end at once, because it is about to connect, ends
    once that fails.
    """
    if not thread.is_alive():  # nor one that was not started
        return True
    thread.join(max(0.0, until - time.monotonic()))
    if thread.is_alive():
        link.interrupt()
        thread.join(INTERRUPTED)
    return not thread.is_alive()


class Outage:
    """What all threads of a bus know of a database that is away: one log line a second at most.

    What else keeps one of them from its work is told here, too: no memory, or a log that cannot be
    written to, is to end none of them. So nothing is raised here, whatever a log's filter does.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0.0
        self._since: float | None = None

    def report(self, who: str, error: BaseException) -> None:
        """Say that ``who`` could not work because of ``error``."""
        with suppress(Exception):
            if isinstance(error, psycopg.Error | PgbusError):
                self._tell(who, error)
            else:
                logger.critical("%s failed, and tries again", who, exc_info=exc_info(error))

    def _tell(self, who: str, error: psycopg.Error | PgbusError) -> None:
        now = time.monotonic()
        with self._lock:
            self._since = self._since or now
            away = now - self._since
            if now - self._last < 1.0:
                return
            self._last = now
        cause = as_store_error(error) if isinstance(error, psycopg.Error) else error
        logger.warning("%s waits for the database (%.0f s so far): %s", who, away, cause)

    def over(self) -> None:
        """Say that the database answered."""
        if self._since is None:
            return
        with self._lock:
            since, self._since = self._since, None
        if since is not None:
            with suppress(Exception):
                logger.info("the database is back after %.1f s", time.monotonic() - since)


class Backoff:
    """Jittered waiting between tries, for ever."""

    def __init__(self, first: float = 0.05, most: float = 2.0) -> None:
        self._first = first
        self._most = most
        self._next = first

    def reset(self) -> None:
        """Begin again with the first wait."""
        self._next = self._first

    def step(self) -> float:
        """Return how long to wait: a random half to the whole of the next step, in seconds."""
        step = self._next
        self._next = min(self._most, step * 2)
        return step * CHANCE.uniform(0.5, 1.0)

    def wait(self, stop: threading.Event) -> bool:
        """Wait for the next step; true once ``stop`` is set."""
        return stop.wait(self.step())

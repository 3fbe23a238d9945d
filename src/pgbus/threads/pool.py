"""The connections that any thread of a bus may borrow, for publishing and for a question."""

import functools
import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.rows import TupleRow
from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout

from pgbus.errors import ConfigurationError, PgbusError, StoreError
from pgbus.store import migrate
from pgbus.store.prepared import Prepared
from pgbus.store.query import Operation, run
from pgbus.threads.link import (
    as_store_error,
    connect,
    is_over,
    settings,
    translated,
)
from pgbus.threads.pooling import configure
from pgbus.threads.server import Server

R = TypeVar("R")

POOL_SIZE = 8
POOL_TIMEOUT = 10.0
"""Seconds that a call waits for a free connection."""
RECONNECT = 1.0
"""Seconds for which the pool tries to connect on its own, each time waiting twice as long: beyond,
whoever waits makes it begin again, or an outage of a minute would be over a minute too late."""
IDLE = 60.0
"""Seconds after which an unused connection is closed."""
CLOSED = "this bus is closed: make another"


class PooledConnection(psycopg.Connection[TupleRow]):
    """A connection of the pool. No watchdog runs where nobody subscribes, so it is its own."""

    within: float | None = None
    """Seconds in which the server must say something, or the link has stalled."""

    def wait(self, gen: PQGen[R], *options: Any, **named: Any) -> R:
        """Wait for the server as psycopg does, but not for ever.

        Raises:
            psycopg.OperationalError: the link has stalled; the connection is closed.
        """
        if self.within is None:
            return super().wait(gen, *options, **named)
        try:
            return super().wait(_impatient(gen, self.within), *options, **named)
        except _StalledError:
            self.close()
            raise

    @functools.cached_property
    def prepared(self) -> Prepared:
        """Its statements of the hot path."""
        return Prepared(self)

    def check_socket(self) -> None:
        """Raise if the server has closed it while idle; costs no round trip where it has not.

        Raises:
            psycopg.OperationalError: the connection is gone.
        """
        if self._poller.poll(0):
            self.execute("")

    @functools.cached_property
    def _poller(self) -> select.poll:
        poller = select.poll()
        poller.register(self.fileno(), select.POLLIN)
        return poller


class _Stack(ConnectionPool[PooledConnection]):
    """A pool that lends what came back last, whose session is still warm.

    In turn, each of eight, a publish by a single thread took 250 µs instead of 145.
    """

    def _get_ready_connection(self, timeout: float | None) -> PooledConnection | None:
        self._pool.rotate(1)  # the pool takes from the left and returns to the right
        return super()._get_ready_connection(timeout)


class Pool:
    """See the module.

    It is opened by the first use, in the process that uses it: a bus that was made before a fork
    works in the child, on connections of the child's own.

    Parameters:
        name: what ``pg_stat_activity`` shows as ``application_name``.
    """

    def __init__(self, server: Server, name: str) -> None:
        self._server = server
        self._name = name
        # A signal's handler may close the bus in the thread that is about to connect.
        self._lock = threading.RLock()
        self._pool: ConnectionPool[PooledConnection] | None = None
        self._process = 0
        self._closed = False

    def renew(self) -> None:
        """Begin anew in the child of a fork, where nobody lets go of what the parent's held."""
        self._lock = threading.RLock()

    def run(
        self,
        operation: Callable[[], Operation[R]],
        *,
        changes: bool = False,
        within: float | None = None,
    ) -> R:
        """Run an operation on a connection of the pool; each of its statements commits by itself.

        Parameters:
            changes: the operation writes, so that a connection that breaks leaves it unknown
                whether it was committed.
            within: see :class:`PooledConnection`; ``None`` waits for as long as it takes.

        Raises:
            StoreError: the database refused or could not be reached.
        """
        pool, connection = self._lend(within)
        try:  # as :meth:`connection`, but for its generator: every publish comes by here
            return run(connection, operation(), connection.prepared.execute)
        except psycopg.Error as error:
            raise _as_store_error(pool, connection, error, changes=changes) from error
        finally:
            pool.putconn(connection)

    @contextmanager
    def connection(
        self, *, changes: bool = False, within: float | None = None
    ) -> "Iterator[PooledConnection]":
        """Lend a connection, in autocommit.

        Parameters:
            changes, within: see :meth:`run`.

        Raises:
            StoreError: there is none to be had, or the database refused what the block asked.
        """
        pool, connection = self._lend(within)
        try:
            yield connection
        except psycopg.Error as error:
            raise _as_store_error(pool, connection, error, changes=changes) from error
        finally:
            pool.putconn(connection)

    def _lend(
        self, within: float | None
    ) -> "tuple[ConnectionPool[PooledConnection], PooledConnection]":
        """Return a connection that works, and the pool to give it back to."""
        pool = self.open()
        try:
            connection = _working_one(pool)
        except PoolTimeout as error:
            raise self._diagnose() from error
        except PoolClosed as error:
            raise ConfigurationError(CLOSED) from error
        connection.within = within
        return pool, connection

    def open(self) -> "ConnectionPool[PooledConnection]":
        """Open the pool, unless it is open, and return it.

        Raises:
            StoreError, IncompatibleDatabase: the database is not there, or not fit to be used.
            ConfigurationError: the bus is closed.
        """
        with self._lock:
            self._refuse_closed()
            if self._pool is None or self._process != os.getpid():
                self._check()
                self._refuse_closed()
                # A forked child leaves the parent's pool alone: the sockets are the parent's.
                self._process = os.getpid()
                self._pool = self._make()
            return self._pool

    def _refuse_closed(self) -> None:
        if self._closed:
            raise ConfigurationError(CLOSED)

    def _check(self) -> None:
        """Look whether the database is there, and fit to be used.

        Where it is not, say why at once: the pool would only know, some seconds later, that it
        waited.
        """
        with translated(), connect(self._server.dsn(), name=self._name) as connection:
            run(connection, migrate.check())

    def _make(self) -> "ConnectionPool[PooledConnection]":
        dsn = self._server.dsn
        return _Stack(
            dsn,
            connection_class=PooledConnection,
            kwargs=lambda: settings(dsn(), self._name),
            min_size=0,
            max_size=POOL_SIZE,
            timeout=POOL_TIMEOUT,
            max_idle=IDLE,
            reconnect_timeout=RECONNECT,
            configure=configure,
            open=True,
            name="pgbus",
        )

    def _diagnose(self) -> StoreError:
        """Say why the pool gave nothing: it only knows that it waited."""
        self._check()
        return StoreError(
            f"all {POOL_SIZE} connections of the bus were busy for {POOL_TIMEOUT:g} s: publish in "
            "fewer threads, or pass connection="
        )

    def close(self) -> None:
        """Close the pool; idempotent."""
        with self._lock:
            pool, self._pool, self._closed = self._pool, None, True
            mine = self._process == os.getpid()
        if pool is not None and mine:
            pool.close()


class _StalledError(psycopg.OperationalError):
    """The server does not answer."""


def _impatient(gen: PQGen[R], seconds: float) -> PQGen[R]:
    """Go on as ``gen`` does, as long as the server says something every so many ``seconds``.

    psycopg sends 0 to it, ten times a second, while the server says nothing.
    """
    until = time.monotonic() + seconds
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            if ready:
                until = time.monotonic() + seconds
            elif time.monotonic() > until:
                raise _StalledError(f"the server has not answered for {seconds:.0f} s")
            wanted = gen.send(ready)
    except StopIteration as stop:
        result: R = stop.value
        return result


def _as_store_error(
    pool: "ConnectionPool[PooledConnection]",
    connection: "psycopg.Connection[Any]",
    error: psycopg.Error,
    *,
    changes: bool,
) -> PgbusError:
    """Return what the user sees of an error, having closed what is of no more use."""
    lost = connection.closed or connection.broken
    if not lost and is_over(connection, error):
        connection.close()
        pool.drain()  # the others are no better: the server turned read-only, or shuts down
    return as_store_error(error, outcome_unknown=changes and lost)


def _working_one(pool: "ConnectionPool[PooledConnection]") -> PooledConnection:
    """Return a connection of the pool that works as far as its socket tells.

    The pool's own check sleeps, ever longer, after each connection that it finds broken: a call in
    front of four broken ones took 7 s while the server had long been back.

    Raises:
        PoolTimeout: there was none for ``POOL_TIMEOUT`` seconds.
    """
    deadline = time.monotonic() + POOL_TIMEOUT
    while True:
        left = deadline - time.monotonic()
        try:
            connection = pool.getconn(timeout=min(RECONNECT, left))
        except PoolTimeout:
            if left < RECONNECT:
                raise
            continue
        try:
            connection.check_socket()
        except psycopg.Error:
            pool.putconn(connection)  # which makes another in its place
        except BaseException:  # interrupted
            pool.putconn(connection)
            raise
        else:
            return connection

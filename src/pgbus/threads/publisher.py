"""Publishing, from any thread: on a small pool of the bus's own, or in the caller's transaction."""

import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

import psycopg
from psycopg_pool import ConnectionPool, PoolTimeout

from pgbus.core.encoding import Encoded, Encoder
from pgbus.core.ids import RANDOM_BYTES, new_event_id
from pgbus.errors import ConfigurationError, InvalidTopic, PayloadError, StoreError
from pgbus.model.envelope import Outgoing, Receipt
from pgbus.model.event import Event
from pgbus.store import migrate
from pgbus.store.publish import publish
from pgbus.store.query import Operation, run
from pgbus.store.routes import Routes
from pgbus.threads.combiner import Combiner
from pgbus.threads.contracts import Contracts
from pgbus.threads.link import (
    as_store_error,
    check_socket,
    connect,
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


class Publisher:
    """Encodes and stores events, and runs the bus's occasional statements.

    The pool is opened by the first use, in the process that uses it: a bus that was made before a
    fork works in the child, on connections of the child's own.
    """

    def __init__(
        self,
        server: Server,
        encoder: Encoder,
        contracts: Contracts,
        *,
        name: str,
        strict: bool,
        window: timedelta,
    ) -> None:
        self.routes = Routes()
        self.strict = strict
        self.window = window
        self._server = server
        self._encoder = encoder
        self._contracts = contracts
        self._name = name
        self._lock = threading.Lock()
        self._last_id: UUID | None = None
        self._checked = False
        self._pool_lock = threading.Lock()
        self._pool: ConnectionPool[psycopg.Connection[Any]] | None = None
        self._combiner: Combiner[Encoded, Receipt] = Combiner(self._store)
        self._pool_process = 0
        self._pool_dsn = ""

    def encode(
        self,
        item: Event | Outgoing,
        *,
        correlation_id: str | None = None,
        causation_id: str | None = None,
    ) -> Encoded:
        """Make an event ready to be stored; see :meth:`pgbus.core.encoding.Encoder.encode`.

        The first event of a type has the type recorded, outside of the caller's transaction.

        Raises:
            SchemaConflict: the database knows the type otherwise.
            StoreError: a type could not be recorded.
        """
        [new_id], now = self._stamp(1)
        return self._encode(item, new_id, now, correlation_id, causation_id)

    def _encode(
        self,
        item: Event | Outgoing,
        new_id: UUID,
        now: str,
        correlation_id: str | None = None,
        causation_id: str | None = None,
    ) -> Encoded:
        encoded = self._encoder.encode(
            item,
            new_id=new_id,
            time=now,
            correlation_id=correlation_id,
            causation_id=causation_id,
        )
        payload = item.payload if isinstance(item, Outgoing) else item
        if type(payload) not in self._contracts.published:
            self._contracts.publish(type(payload), encoded.topic, self.run)
        return encoded

    def _encode_all(self, items: Sequence[Event | Outgoing]) -> list[Encoded]:
        if len(items) == 1:
            return [self.encode(items[0])]
        ids, now = self._stamp(len(items))
        events: list[Encoded] = []
        try:
            for item, new_id in zip(items, ids, strict=True):
                events.append(self._encode(item, new_id, now))
        except (PayloadError, InvalidTopic, ConfigurationError) as error:
            placed = type(error)(f"item {len(events) + 1}: {error}")
            placed.item = len(events)
            raise placed from error
        return events

    def _stamp(self, count: int) -> tuple[list[UUID], str]:
        """Return so many new ids, in their order, and the time."""
        now = time.time()
        self._contracts.expire(now)
        random = secrets.token_bytes(RANDOM_BYTES * count)
        ids = []
        with self._lock:
            for start in range(0, len(random), RANDOM_BYTES):
                part = random[start : start + RANDOM_BYTES]
                self._last_id = new_event_id(int(now * 1000), part, self._last_id)
                ids.append(self._last_id)
        moment = datetime.fromtimestamp(now, UTC)
        return ids, moment.isoformat(timespec="microseconds").replace("+00:00", "Z")

    def operation(self, events: Sequence[Encoded]) -> Operation[list[Receipt]]:
        """Return the operation that stores events as this bus is set up to."""
        return publish(events, self.routes, strict=self.strict, window=self.window)

    def publish(
        self, items: Sequence[Event | Outgoing], connection: "psycopg.Connection[Any] | None"
    ) -> list[Receipt]:
        """Publish in one round trip, in the caller's transaction if there is one.

        Raises:
            PayloadError, InvalidTopic, ConfigurationError: nothing was sent.
            Unroutable: nothing was stored; the transaction stays usable.
            StoreError: see ``outcome_unknown``.
        """
        events = self._encode_all(items)
        if connection is None:
            self._open_pool()
            return list(self._combiner.run(events))
        try:
            if not self._checked:
                run(connection, migrate.check())
                self._checked = True
            return run(connection, self.operation(events))
        except psycopg.Error as error:
            raise as_store_error(error) from error

    def run(self, operation: Callable[[], Operation[R]], *, changes: bool = False) -> R:
        """Run an operation of one statement on a connection of the pool.

        Parameters:
            changes: the operation writes, so that a connection that breaks leaves it unknown
                whether it was committed.

        Raises:
            StoreError: the database refused or could not be reached.
        """
        with self.connection() as connection:
            try:
                return run(connection, operation())
            except psycopg.Error as error:
                lost = connection.closed or connection.broken
                raise as_store_error(error, outcome_unknown=changes and lost) from error

    @contextmanager
    def connection(self) -> "Iterator[psycopg.Connection[Any]]":
        """Lend a connection, in autocommit.

        Raises:
            StoreError: there is none to be had.
        """
        pool = self._open_pool()
        try:
            connection = _working_one(pool)
        except PoolTimeout as error:
            raise self._diagnose() from error
        try:
            yield connection
        finally:
            pool.putconn(connection)

    def _open_pool(self) -> "ConnectionPool[psycopg.Connection[Any]]":
        with self._pool_lock:
            if self._pool is None or self._pool_process != os.getpid():
                self._check()
                # A forked child leaves the parent's pool alone: the sockets are the parent's.
                self._pool_process = os.getpid()
                self._pool = self._make_pool()
                self._combiner = Combiner(self._store)
            return self._pool

    def _store(self, events: Sequence[Encoded]) -> list[Receipt]:
        return self.run(lambda: self.operation(events), changes=True)

    def _check(self) -> None:
        """Look whether the database is there, and fit to be used.

        Where it is not, say why at once: the pool would only know, some seconds later, that it
        waited.
        """
        with translated(), connect(self._server.dsn(), name=self._name) as connection:
            run(connection, migrate.check())
        self._checked = True

    def _make_pool(self) -> "ConnectionPool[psycopg.Connection[Any]]":
        dsn = self._server.dsn
        return ConnectionPool(
            dsn,
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
        with self._pool_lock:
            pool, self._pool = self._pool, None
            mine = self._pool_process == os.getpid()
        if pool is not None and mine:
            pool.close()


def _working_one(pool: "ConnectionPool[psycopg.Connection[Any]]") -> "psycopg.Connection[Any]":
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
            check_socket(connection)
        except psycopg.Error:
            pool.putconn(connection)  # which makes another in its place
        else:
            return connection

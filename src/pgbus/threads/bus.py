"""The bus: what users type."""

import logging
import math
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg

from pgbus.core.encoding import MAX_BODY, MAX_HEADERS, MISSING, Encoder, outgoing
from pgbus.core.handler import Kinds
from pgbus.errors import ConfigurationError
from pgbus.model.checks import check_choice, check_instance, check_number
from pgbus.model.config import CHECKS, Check, OnExhausted, OnUnroutable, Retry
from pgbus.model.envelope import Outgoing, Receipt
from pgbus.model.event import Event
from pgbus.model.names import check_prefix
from pgbus.store import migrate, topology
from pgbus.store.query import run
from pgbus.threads.administration import Administration
from pgbus.threads.batch import BatchContext
from pgbus.threads.context import Context, Incident
from pgbus.threads.contracts import Contracts, installed_version
from pgbus.threads.definition import Definition, Options, check_subscription, define
from pgbus.threads.dsn import Dsn
from pgbus.threads.engine import Engine
from pgbus.threads.link import connect, translated
from pgbus.threads.pool import CLOSED, Pool
from pgbus.threads.pooling import check_same_database
from pgbus.threads.publisher import Publisher
from pgbus.threads.server import find_server
from pgbus.threads.signals import asked_to_stop
from pgbus.threads.signature import F
from pgbus.threads.subscription import Subscription

logger = logging.getLogger(__name__)

GRACE = 30.0
"""Seconds that handlers get to finish when the bus stops."""
MOST_GRACE = 1e9
"""Seconds; to wait longer, for ever even, is more than threads can be asked to."""
LONGEST_IDLE_CHECK = 0.1
_DEFAULT_RETRY = Retry()
_KINDS = Kinds(Context, BatchContext, psycopg.Connection, psycopg.AsyncConnection)


class Bus(Administration):
    """An event bus on PostgreSQL.

    Parameters:
        dsn: libpq's connection string or URI; left out, ``$PGBUS_DSN``, else the embedded
            PostgreSQL (extra ``pgbus[embedded]``).
        direct_dsn: where ``dsn`` leads through a pooler in transaction mode (PgBouncer), the way
            to the same database past it. Heartbeats, takes and LISTEN use it. Without it, a bus
            behind a pooler looks for events once a second.
        service: who publishes: the CloudEvents ``source``, and the first part of subscriptions'
            default names. Left out, the script's name.
        lease: seconds that this process may be silent before others take its keys over.
        on_unroutable: ``"ignore"`` an event that no subscription matches, or ``"raise"``.
        prune_bindings: remove, at the start, bindings of this bus's subscriptions that pgbus made
            and that neither this code nor a live worker declares.
        dedup_window: for how long a publisher's ``id`` is remembered.
        max_body: the longest body in bytes of JSON.
        max_headers: the longest headers of a publisher in bytes of JSON.
        service_version: the service's release, for those who ask whom a change would hurt. Left
            out, that of the installed distribution with the service's name, if there is one.
        schema_check: what to do about an event type that the database knows otherwise under the
            same version: ``"error"`` raises :class:`pgbus.SchemaConflict`, ``"warn"`` logs it,
            ``"off"`` neither records nor compares event types.
        wildcard_check: what to do, at the start, about patterns that match no known topic, or
            deliver topics for which the handler has no type: ``"error"`` raises, ``"warn"`` logs
            it, ``"off"`` does not look.

    Raises:
        ConfigurationError: there is no DSN and no embedded PostgreSQL, or a value is out of range.

    A bus is thread-safe. It connects when it is first used, so it can be made before a fork.
    Whatever asks the database can raise :class:`pgbus.IncompatibleDatabase`, too: see
    :meth:`install`.
    """

    def __init__(
        self,
        dsn: str | None = None,
        *,
        direct_dsn: str | None = None,
        service: str | None = None,
        lease: float = 30.0,
        on_unroutable: OnUnroutable = "ignore",
        prune_bindings: bool = True,
        dedup_window: timedelta = timedelta(days=7),
        max_body: int = MAX_BODY,
        max_headers: int = MAX_HEADERS,
        service_version: str | None = None,
        schema_check: Check = "error",
        wildcard_check: Check = "warn",
    ) -> None:
        texts = (
            ("dsn", dsn),
            ("direct_dsn", direct_dsn),
            ("service", service),
            ("service_version", service_version),
        )
        for what, text in texts:
            if text is not None:
                check_instance(what, text, str)
        check_number("lease", lease, 0.5, 3600)
        check_choice("on_unroutable", on_unroutable, ("ignore", "raise"))
        check_choice("schema_check", schema_check, CHECKS)
        check_choice("wildcard_check", wildcard_check, CHECKS)
        check_choice("prune_bindings", prune_bindings, (True, False))
        check_instance("dedup_window", dedup_window, timedelta)
        if not timedelta(0) < dedup_window <= timedelta(days=3650):
            raise ConfigurationError(
                f"dedup_window={dedup_window}: use more than nothing and at most ten years"
            )
        self._server = find_server(dsn, os.environ.get("PGBUS_DSN"))
        self._direct = find_server(direct_dsn, None) if direct_dsn is not None else self._server
        self._given_service = service
        self._service = service or Path(sys.argv[0]).stem or "pgbus"
        self._lease = float(lease)
        self._prune = prune_bindings
        self._window = dedup_window
        self._contracts = Contracts(
            self._service,
            installed_version(service) if service_version is None else service_version,
            schemas=schema_check,
            wildcards=wildcard_check,
        )
        self._pool = Pool(self._server, f"pgbus {self._service}"[:63])
        self._publisher = Publisher(
            self._pool,
            Encoder(source=self._service, max_body=max_body, max_headers=max_headers),
            self._contracts,
            strict=on_unroutable == "raise",
            window=dedup_window,
        )
        self._lock = threading.RLock()
        self._definitions: dict[str, Definition] = {}
        self._callbacks: list[Callable[[Incident], None]] = []
        self._engine: Engine | None = None
        self._subscriptions: list[Subscription] = []
        self._closed = False
        _buses.add(self)

    def __repr__(self) -> str:
        state = "closed" if self._closed else "running" if self._engine else "stopped"
        return f"<Bus {self._service!r} {state}, {len(self._definitions)} subscriptions>"

    @property
    def dsn(self) -> str:
        """The connection string in use, the embedded server's too (which this starts).

        Raises:
            ConfigurationError, StoreError: the embedded server could not be started.
        """
        return Dsn(self._server.dsn())

    # Setting up.

    def install(self, *, roles: bool | str = False) -> None:
        """Create what pgmq and pgbus need in the database; idempotent, safe for many at once.

        Parameters:
            roles: also create roles for those who may do only some of it; a text, of up to 8
                characters, is what their names begin with instead of ``pgbus``.

        Raises:
            ConfigurationError: ``roles`` is no such text.
            IncompatibleDatabase: the database has a pgmq or a pgbus that this release cannot use.
            StoreError: the database refused or could not be reached.
        """
        prefix = check_prefix(roles)
        with (
            translated(),
            connect(self._server.dsn(), name="pgbus install") as connection,
            connection.transaction(),
        ):
            done = run(connection, migrate.install(roles=prefix))
        if done.migrations:
            logger.info("installed pgbus (pgmq: %s): %s", done.pgmq, ", ".join(done.migrations))

    def subscribe(
        self,
        *patterns: str,
        name: str | None = None,
        concurrency: int = 8,
        ordered: bool = True,
        retry: Retry = _DEFAULT_RETRY,
        timeout: float | None = None,
        on_exhausted: OnExhausted = "skip",
        batch: int | None = None,
    ) -> Callable[[F], F]:
        """Declare a handler of the events that match a pattern; returns a decorator.

        Parameters:
            patterns: topics with wildcards: ``*`` is exactly one word, ``#`` zero or more.
            name: the durable queue's name; processes with the same name share its events. Left
                out, ``<package>_<function>``.
            concurrency: the number of handler threads in this process.
            ordered: keep the order of events with the same key.
            retry: how failures are repeated.
            timeout: seconds that one call may take, or ``None``.
            on_exhausted: what a key does after a dead letter: ``"skip"`` it and go on, or
                ``"park"`` until it is redriven or dropped.
            batch: how many events a handler annotated ``list[E]`` gets at once, at most; 100 if
                left out.

        Raises:
            ConfigurationError: the bus runs, the name is taken, the handler's signature does not
                fit (when the decorator is applied), or a value is out of range.
            InvalidPattern, InvalidName: what they say.
        """
        options: Options = {
            "concurrency": concurrency,
            "ordered": ordered,
            "retry": retry,
            "timeout": timeout,
            "on_exhausted": on_exhausted,
        }
        check_subscription(patterns, options, batch)

        def decorate(function: F) -> F:
            definition = define(
                function,
                _KINDS,
                patterns,
                name,
                self._given_service,
                options,
                batch,
            )
            self._add(definition)
            if name is None:
                logger.info("subscription %s has no name of its own: give it one", definition.name)
            return function

        return decorate

    def _add(self, definition: Definition) -> None:
        name = definition.name
        with self._lock:
            if self._engine is not None:
                raise ConfigurationError(
                    f"subscription {name!r} came after start(): subscribe first"
                )
            if name in self._definitions:
                raise ConfigurationError(f"this bus has a subscription {name!r} already")
            self._definitions[name] = definition

    def on_error(self, callback: Callable[[Incident], None]) -> Callable[[Incident], None]:
        """Call ``callback`` for every failed attempt, fenced acknowledgement and dead letter.

        It runs in the thread that found out, and should be quick. Returns the callback, so that it
        serves as a decorator.
        """
        self._callbacks.append(callback)
        return callback

    def declare(self) -> None:
        """Create and bind this bus's queues without running handlers.

        Raises:
            ConfigurationError: the bus is closed, or ``direct_dsn`` leads to another database.
            StoreError: pgbus is not installed, or the database could not be reached.
        """
        self._declare(bind=True)

    def _declare(self, *, bind: bool, check: bool = False) -> list[Subscription]:
        self._refuse_closed()
        declared = []
        with translated(), connect(self._server.dsn(), name="pgbus declare") as connection:
            run(connection, migrate.check())
            if self._direct is not self._server:
                with connect(self._direct.dsn(), name="pgbus declare") as direct:
                    check_same_database(connection, direct)
            if check:
                self._contracts.check_accepted(connection, self._definitions.values())
            # By name, so that two processes that declare at once wait and do not deadlock.
            for definition in sorted(self._definitions.values(), key=lambda one: one.name):
                with connection.transaction():
                    park = definition.on_exhausted == "park"
                    number = run(
                        connection,
                        topology.declare(definition.name, ordered=definition.ordered, park=park),
                    )
                    if bind:
                        run(connection, topology.bind(number, definition.expansions, prune=False))
                declared.append(Subscription(number, definition))
        return declared

    # Publishing.

    def publish(
        self,
        topic: str | Event,
        payload: Any = MISSING,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        delay: float | timedelta | None = None,
        at: datetime | None = None,
        id: UUID | None = None,  # noqa: A002 - the word that users know
        connection: "psycopg.Connection[Any] | None" = None,
    ) -> Receipt:
        """Publish one event; ``publish(event)`` or ``publish(topic, payload)``.

        Parameters:
            topic: where to, or an event whose type says so.
            payload: an event, or anything that msgspec can encode.
            key: orders the events that share it; by default the one the event's type names.
            headers: further headers, ``str`` to ``str``.
            delay: seconds, or a ``timedelta``, before it joins its key's order.
            at: the aware moment when it joins its key's order.
            id: makes publishing idempotent within the dedup window.
            connection: publish in this psycopg connection's transaction.

        Returns:
            The receipt. Without ``connection`` the event is committed.

        Raises:
            PayloadError: the payload cannot be stored or read back; PayloadTooLarge for its size.
            InvalidTopic, ConfigurationError: the call itself is wrong.
            SchemaConflict: the database knows the event's type otherwise.
            Unroutable: nothing matches, and the bus was made to care.
            StoreError: the database refused or could not be reached; see ``outcome_unknown``.
        """
        item = outgoing(topic, payload, key=key, headers=headers, delay=delay, at=at, id=id)
        return self._publish([item], connection)[0]

    def publish_many(
        self,
        items: Iterable[Event | Outgoing],
        *,
        connection: "psycopg.Connection[Any] | None" = None,
    ) -> list[Receipt]:
        """Publish any number of events in one round trip, all or none.

        Parameters:
            items: events, or :class:`pgbus.Outgoing` for an explicit topic. Their order is their
                order within a key.
            connection: see :meth:`publish`.

        Returns:
            The receipts, in the same order.

        Raises:
            See :meth:`publish`; whatever is wrong with one, nothing is stored.
        """
        return self._publish(list(items), connection)

    def _publish(
        self, items: Sequence[Event | Outgoing], connection: "psycopg.Connection[Any] | None"
    ) -> list[Receipt]:
        self._refuse_closed()
        self._refuse_fork()
        if connection is not None:
            check_instance("connection", connection, psycopg.Connection)
        return self._publisher.publish(items, connection)

    # Running.

    def start(self) -> None:
        """Declare the subscriptions and run their handlers in threads; idempotent.

        Raises:
            ConfigurationError: the bus has no subscription, or is closed; or patterns and types do
                not go together, and ``wildcard_check="error"``.
            SchemaConflict: the database knows an event type of a handler otherwise.
            StoreError: pgbus is not installed, or the database could not be reached.
        """
        if self._is_within():
            return  # it runs; and who stops it has the lock, and waits for this very thread
        with self._lock:
            self._refuse_closed()
            self._refuse_fork()
            if self._engine is not None:
                return
            if not self._definitions:
                raise ConfigurationError("this bus has no subscription to run: use @bus.subscribe")
            subscriptions = self._declare(bind=False, check=True)
            engine = Engine(
                self._server,
                self._direct,
                self._pool,
                self._publisher,
                self._contracts,
                subscriptions,
                service=self._service,
                lease=self._lease,
                prune=self._prune,
                window=self._window,
                report=self._report,
            )
            # Before it starts: a handler may ask to stop the bus before that returns.
            self._engine, self._subscriptions = engine, subscriptions
            try:
                with translated():
                    engine.start()
            except BaseException:
                self._end(engine, 0.0)
                raise

    def stop(self, timeout: float = GRACE) -> None:
        """Stop: handlers finish, at most for ``timeout`` seconds; the rest goes back; idempotent.

        Nothing of this counts as a failed attempt.

        Parameters:
            timeout: the handlers' grace in seconds.

        Raises:
            ConfigurationError: ``timeout`` is no such number; or a handler or an ``on_error``
                callback calls it, whose end it would wait for.
        """
        _check_timeout(timeout)
        if self._is_within():
            raise ConfigurationError(
                "stop() and close() wait for the handlers, so none of them can call it: let "
                "another thread do so, or send this process SIGTERM where it is in run()"
            )
        with self._lock:
            engine = self._engine
            if engine is None:
                return
            self._end(engine, max(0.0, min(timeout, MOST_GRACE)))
        if engine.process == os.getpid():
            logger.info("stopped")

    def _end(self, engine: Engine, grace: float) -> None:
        """Stop an engine; called with the lock held."""
        try:
            if engine.process == os.getpid():  # else the threads are the parent's of a fork
                engine.stop(grace)
        except BaseException:  # Ctrl-C: the handlers get no more grace
            engine.stop(0.0)
            raise
        finally:
            # Not before: a handler that calls this meanwhile must not wait for the lock.
            self._engine = None
            self._subscriptions = []

    def _is_within(self) -> bool:
        """Whether a handler or an ``on_error`` callback calls, for whose end a stop waits."""
        engine = self._engine
        return engine is not None and engine.process == os.getpid() and engine.is_here()

    @contextmanager
    def running(self, timeout: float = GRACE) -> "Iterator[Bus]":
        """Run the handlers while the block runs, and yield the bus.

        Parameters:
            timeout: see :meth:`stop`.

        Raises:
            ConfigurationError, SchemaConflict, StoreError: see :meth:`start` and :meth:`stop`.
        """
        _check_timeout(timeout)
        self.start()
        try:
            yield self
        finally:
            self.stop(timeout)

    def run(self, timeout: float = GRACE) -> None:
        """Run the handlers until SIGTERM or SIGINT, then drain and return.

        A second signal ends the process at once. To be called in the main thread.

        Parameters:
            timeout: the handlers' grace in seconds.

        Raises:
            ConfigurationError: this is not the main thread; see :meth:`start` and :meth:`stop`,
                too.
            SchemaConflict, StoreError: see :meth:`start`.
        """
        with asked_to_stop() as request, self.running(timeout):
            request.wait()
            logger.info("stopping: handlers get up to %g s to finish", timeout)

    def wait_idle(self, timeout: float = 10.0) -> bool:
        """Wait until nothing is visible, leased or waiting for a retry in this bus's subscriptions.

        Parked and delayed events may stay. Where the bus does not run, its subscriptions are
        declared, but not bound.

        Parameters:
            timeout: seconds.

        Returns:
            False where the time ran out.

        Raises:
            ConfigurationError: ``timeout`` is no such number, or the bus is closed.
            StoreError: the database refused or could not be reached.
        """
        _check_timeout(timeout)
        deadline = time.monotonic() + timeout
        numbers = [one.number for one in self._subscriptions]
        if not numbers:
            numbers = [one.number for one in self._declare(bind=False)]
        pause = 0.005
        while not self._pool.run(lambda: topology.idle(numbers)):
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(pause, left))
            pause = min(LONGEST_IDLE_CHECK, pause * 1.5)
        return True

    def close(self) -> None:
        """Stop, close every connection, and leave the embedded server; idempotent.

        Raises:
            ConfigurationError: see :meth:`stop`.
        """
        self.stop()
        with self._lock:
            self.stop()  # what another thread has started meanwhile
            if self._closed:
                return
            self._closed = True
        self._pool.close()
        self._server.leave()

    def __enter__(self) -> "Bus":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _renew(self) -> None:
        """Make the locks anew, in the child of a fork."""
        self._lock = threading.RLock()
        self._contracts.renew()
        self._pool.renew()
        self._publisher.renew()

    # Guards.

    def _names(self) -> list[str]:
        return list(self._definitions)

    def _report(self, incident: Incident) -> None:
        for callback in list(self._callbacks):
            try:
                callback(incident)
            except BaseException:  # SystemExit would end a thread of ours, and nobody would know
                logger.exception("an on_error callback failed")

    def _refuse_closed(self) -> None:
        if self._closed:
            raise ConfigurationError(CLOSED)

    def _refuse_fork(self) -> None:
        engine = self._engine
        if engine is not None and engine.process != os.getpid():
            raise ConfigurationError(
                f"this bus was started in process {engine.process}, before a fork: its "
                "threads and connections are that one's; make a new Bus in the child, or start it "
                "after the fork"
            )


# Written by Bus, read by the child of a fork. Whatever lock a thread of the parent's was within, it
# stays locked there for ever.
_buses: "weakref.WeakSet[Bus]" = weakref.WeakSet()


def _renew_in_child() -> None:
    for bus in list(_buses):
        bus._renew()


os.register_at_fork(after_in_child=_renew_in_child)


def _check_timeout(timeout: Any) -> None:
    """Raise unless it is a number. Less than 0 is 0: so much may be left until a deadline."""
    if not isinstance(timeout, int | float) or math.isnan(timeout):
        raise ConfigurationError(f"timeout={timeout!r}: use a number of seconds")

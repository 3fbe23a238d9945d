"""Publishing, from any thread: on connections of the bus's own, or in the caller's transaction."""

import logging
import os
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import psycopg
from psycopg.pq import TransactionStatus

from pgbus.core.encoding import Encoded, Encoder
from pgbus.core.ids import RANDOM_BYTES, STEP_BYTES, new_event_ids
from pgbus.errors import ConfigurationError, InvalidTopic, PayloadError, PgbusError, StoreError
from pgbus.model.envelope import Outgoing, Receipt
from pgbus.model.event import Event
from pgbus.store import migrate, tail
from pgbus.store.publish import publish, publish_known
from pgbus.store.query import Operation, run, send
from pgbus.store.routes import Routes
from pgbus.threads import link
from pgbus.threads.combiner import Combiner
from pgbus.threads.contracts import Contracts
from pgbus.threads.link import as_store_error
from pgbus.threads.pool import Pool

logger = logging.getLogger(__name__)

SWEEP = 10.0
"""Seconds between two looks for tails that were killed."""
PART = 100
"""So many events of a long call are encoded while the server stores those before them."""


def _within() -> float:
    """Return in how many seconds the server must say something about a publish of any size."""
    return link.STALL * link.LONG


class Publisher:
    """Encodes and stores events."""

    def __init__(
        self, pool: Pool, encoder: Encoder, contracts: Contracts, *, strict: bool, window: timedelta
    ) -> None:
        self.routes = Routes()
        self.strict = strict
        self.window = window
        self._pool = pool
        self._encoder = encoder
        self._contracts = contracts
        self._lock = threading.Lock()
        self._last_id: UUID | None = None
        self._checked = False
        self._next_sweep = 0.0
        self._combiner: Combiner[Encoded, Receipt] = Combiner(self._store)

    def renew(self) -> None:
        """Begin anew in the child of a fork, where nobody lets go of what the parent's held."""
        self._lock = threading.Lock()
        self._combiner = Combiner(self._store)

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
        encoded = self._encoder.encode(
            item,
            new_id=new_id,
            time=now,
            correlation_id=correlation_id,
            causation_id=causation_id,
        )
        self._record_type(item, encoded)
        return encoded

    def _record_type(self, item: Event | Outgoing, encoded: Encoded) -> None:
        payload = item.payload if isinstance(item, Outgoing) else item
        if type(payload) not in self._contracts.published:
            within = _within()
            ask = partial(self._pool.run, within=within)
            self._contracts.publish(type(payload), encoded.topic, ask, within)

    def _encode_all(
        self, items: Sequence[Event | Outgoing], first: int | None = None
    ) -> list[Encoded]:
        """Encode events.

        Parameters:
            first: the place at which they begin, of a part of a long call. Types are not recorded
                then: that takes a connection, and such a call holds one already.
        """
        if not items:
            return []
        if len(items) == 1 and first is None:
            return [self.encode(items[0])]
        ids, now = self._stamp(len(items))
        events: list[Encoded] = []
        try:
            for item, new_id in zip(items, ids, strict=True):
                events.append(self._encoder.encode(item, new_id=new_id, time=now))
                if first is None:
                    self._record_type(item, events[-1])
        except (PayloadError, InvalidTopic, ConfigurationError) as error:
            place = (first or 0) + len(events)
            placed = type(error)(f"item {place + 1}: {error}")
            placed.item = place
            raise placed from error
        return events

    def _stamp(self, count: int) -> tuple[list[UUID], str]:
        """Return so many new ids, in their order, and the time."""
        now = time.time()
        self._contracts.expire(now)
        random = os.urandom(RANDOM_BYTES + STEP_BYTES * (count - 1))
        with self._lock:
            ids = new_event_ids(int(now * 1000), random, self._last_id)
            self._last_id = ids[-1]
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
        is_long = len(items) >= 2 * PART and psycopg.capabilities.has_pipeline()
        if connection is None and is_long and self._knows_types_of(items):
            return self._publish_long(items)
        events = self._encode_all(items)
        if connection is None:
            return self._combine(events)
        alone = False
        try:
            if not self._checked:
                run(connection, migrate.check())
                self._checked = True
            alone = _commits_alone(connection)
            return run(connection, self.operation(events))
        except psycopg.Error as error:
            unknown = alone and connection.closed
            raise as_store_error(error, outcome_unknown=unknown) from error

    def _combine(self, events: Sequence[Encoded]) -> list[Receipt]:
        if not self._checked:  # what is wrong then is nobody else's
            self._pool.open()
            self._checked = True
        return list(self._combiner.run(events))

    def _store(self, events: Sequence[Encoded]) -> list[Receipt]:
        try:
            receipts = self._store_once(events)
        except StoreError as error:
            if not _lacks_queue(error):
                raise
            receipts = self._store_once(events)  # by now it is known where to
        if self.routes.tailed:
            self._sweep_tails()
        return receipts

    def _store_once(self, events: Sequence[Encoded]) -> list[Receipt]:
        return self._pool.run(lambda: self.operation(events), changes=True, within=_within())

    def _sweep_tails(self) -> None:
        """Drop what killed tails left, which makes publishing slow; workers do so, too."""
        now = time.monotonic()
        if now < self._next_sweep:
            return
        self._next_sweep = now + SWEEP
        try:
            self._pool.run(tail.sweep, within=_within())
        except PgbusError as error:  # what was published stays published
            logger.warning("what tails have left could not be swept: %s", error)

    def _knows_types_of(self, items: Sequence[Event | Outgoing]) -> bool:
        """Whether all types are recorded."""
        kinds = {type(item.payload if isinstance(item, Outgoing) else item) for item in items}
        return kinds <= self._contracts.published

    def _publish_long(self, items: Sequence[Event | Outgoing]) -> list[Receipt]:
        """Store one part while encoding the next; all of them in one transaction."""
        events: list[Encoded] = []
        receipts: list[Receipt] = []
        try:
            self._send_parts(items, events, receipts)
        except StoreError as error:
            if not _lacks_queue(error):
                raise
        if len(receipts) == len(items):
            return receipts
        # What is remembered of some topic does not do: the server has to decide.
        return self._store(events + self._encode_all(items[len(events) :], len(events)))

    def _send_parts(
        self, items: Sequence[Event | Outgoing], events: list[Encoded], receipts: list[Receipt]
    ) -> None:
        """Store items where their topics are remembered to lead, or none of them.

        Parameters:
            events: gets those that were encoded.
            receipts: gets a receipt for each item, or fewer where nothing was stored.
        """
        with (
            self._pool.connection(changes=True, within=_within()) as connection,
            connection.pipeline(),
            connection.transaction(),
        ):
            waiting = []
            for first in range(0, len(items), PART):
                part = self._encode_all(items[first : first + PART], first)
                events += part
                try:
                    operation = publish_known(
                        part, self.routes, strict=self.strict, window=self.window
                    )
                    waiting.append(send(connection, operation))
                except StopIteration:
                    raise psycopg.Rollback from None
            for receive in waiting:
                stored = receive()
                if stored is None:
                    raise psycopg.Rollback
                receipts += stored


def _lacks_queue(error: StoreError) -> bool:
    """Return whether a queue was dropped or renamed meanwhile, so that nothing was stored."""
    return isinstance(error.__cause__, psycopg.errors.UndefinedTable)


def _commits_alone(connection: "psycopg.Connection[Any]") -> bool:
    """Return whether a statement is committed as it returns; true where a pipeline hides that."""
    return connection.autocommit and connection.info.transaction_status in (
        TransactionStatus.IDLE,
        TransactionStatus.ACTIVE,
    )

"""What a bus records of its event types in the database, and how it takes what differs there."""

import functools
import logging
import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import psycopg

from pgbus.core.changes import compare
from pgbus.core.evolution import downcast_versions
from pgbus.core.recorded import Difference
from pgbus.core.schema import EventSchema, describe
from pgbus.core.wildcards import wildcard_faults
from pgbus.errors import ConfigurationError, SchemaConflict, StoreError
from pgbus.model.config import Check
from pgbus.model.event import Event
from pgbus.store import schemas
from pgbus.store.query import Operation, run
from pgbus.threads.definition import Definition
from pgbus.threads.subscription import Subscription

logger = logging.getLogger(__name__)

Ask = Callable[[Callable[[], Operation[Any]]], Any]
"""Runs an operation outside of anybody's transaction; each of its statements commits by itself."""
MOST_CHANGES = 5
RENEW = 3600.0
"""Seconds after which a publisher says again that it publishes a type."""


class Contracts:
    """See the module.

    Parameters:
        service: the bus's.
        service_version: the release of the service, empty where it does not say.
        schemas: what to do about a type that is recorded otherwise; ``"off"`` records nothing.
        wildcards: what to do about patterns that do not go with the types.
    """

    def __init__(
        self, service: str, service_version: str, *, schemas: Check, wildcards: Check
    ) -> None:
        self.service = service
        self.service_version = service_version
        self.mode = schemas
        self._wildcards = wildcards
        self._lock = threading.RLock()  # which only its holder can release
        # Every publish reads it; whoever has recorded a type adds it.
        self.published: set[type] = set()
        self._renew_at = 0.0

    def renew(self) -> None:
        """Begin anew in the child of a fork, where nobody lets go of what the parent's held."""
        self._lock = threading.RLock()

    def expire(self, now: float) -> None:
        """Let types be recorded again once an hour, so that it shows who still publishes them.

        Parameters:
            now: seconds, of any clock.
        """
        if now >= self._renew_at:
            self._renew_at = now + RENEW
            self.published = set()

    def publish(self, kind: type, topic: str, ask: Ask, within: float) -> None:
        """Record a type at its first publish by this process.

        Parameters:
            kind: of the payload: an event type, or anything.
            topic: under which it is published.
            ask: gives up a server that says nothing for ``within`` seconds.
            within: for so long another thread that records a type is waited for.

        Raises:
            SchemaConflict: the registry knows it otherwise, and the check is ``"error"``.
            StoreError: the database refused or could not be reached.
        """
        if self.mode == "off" or not issubclass(kind, Event):
            self.published.add(kind)
            return
        if kind.__event_topic__ != topic:
            return  # published under a topic that is not the type's own: it defines nothing there
        # One thread asks, the others wait for the answer; not each for those before it in turn.
        try:
            if not self._lock.acquire(timeout=within):
                raise StoreError(f"the server has not answered for {within:.0f} s")
            if kind not in self.published:
                self._record_published(kind, ask)
                self.published.add(kind)
        finally:
            with suppress(RuntimeError):  # the wait for it was too long, or interrupted
                self._lock.release()

    def _record_published(self, kind: type[Event], ask: Ask) -> None:
        schema, downcasts = _described(kind), downcast_versions(kind)
        who = (self.service, self.service_version, socket.gethostname())
        try:
            self._judge(ask(lambda: schemas.record(self.service, [schema])))
            ask(lambda: schemas.record_publisher(schema, downcasts, *who))
        except StoreError as error:
            if not isinstance(error.__cause__, psycopg.errors.InsufficientPrivilege):
                raise
            logger.warning(
                "%s is not recorded: this role may not write to the tables of pgbus", schema.label
            )

    def check_accepted(
        self, connection: "psycopg.Connection[Any]", definitions: Iterable[Definition]
    ) -> None:
        """Record what handlers accept, and check their patterns against what is known.

        Raises:
            SchemaConflict: the registry knows a type otherwise, and the check is ``"error"``.
            ConfigurationError: patterns and types do not go together, and that check is
                ``"error"``.
        """
        chosen = list(definitions)
        if self.mode != "off":
            own = {
                (one.topic, one.version, one.fingerprint): one
                for each in chosen
                for one in accepted_by(each)
            }
            if own:
                self._judge(run(connection, schemas.record(self.service, list(own.values()))))
        if self._wildcards != "off":
            self._check_wildcards(connection, chosen)

    def _check_wildcards(
        self, connection: "psycopg.Connection[Any]", definitions: Sequence[Definition]
    ) -> None:
        recorded = run(connection, schemas.event_types())
        known = {one.schema.topic for one in recorded}
        known |= {topic for one in definitions for topic, _ in one.handler.decoders}
        faults = [
            f"subscription {one.name}: {fault}"
            for one in definitions
            for fault in wildcard_faults(
                one.patterns,
                {topic for topic, _ in one.handler.decoders},
                known,
                any_type=one.handler.fallback is not None,
            )
        ]
        if faults and self._wildcards == "error":
            raise ConfigurationError("; ".join(faults))
        for fault in faults:
            logger.warning("%s", fault)

    def accept(self, worker: int, subscriptions: Iterable[Subscription]) -> Operation[None]:
        """Note what a worker accepts, in the transaction that registers it."""
        if self.mode != "off":
            accepted = [
                (one.number, schema)
                for one in subscriptions
                for schema in accepted_by(one.definition)
            ]
            yield from schemas.accept(worker, self.service_version, accepted)

    def _judge(self, differences: Sequence[Difference]) -> None:
        told = [conflict(one) for one in differences if not _same_fields(one)]
        for one in differences:
            if _same_fields(one):
                logger.warning(
                    "%s: its key is %r here and %r in the registry, where %s recorded it: "
                    "events of the two are not kept in order",
                    *(one.given.label, one.given.key, one.recorded.schema.key, one.recorded.by),
                )
        if told and self.mode == "error":
            raise SchemaConflict("; ".join(told))
        for text in told:
            logger.warning("%s", text)


def accepted_by(definition: Definition) -> list[EventSchema]:
    """Return the schemas of the event types in a handler's annotation."""
    kinds: list[Any] = [decoder.type for decoder in definition.handler.decoders.values()]
    return [_described(kind) for kind in kinds]


# A type with a hundred parts takes 20 ms, and is asked for at each start and first publish.
_described = functools.lru_cache(maxsize=1000)(describe)


def conflict(difference: Difference) -> str:
    """Say how a type differs from what is recorded, and what to do."""
    given, recorded = difference.given, difference.recorded
    found = compare(recorded.schema.document, given.document).changes
    shown = "; ".join(map(str, found[:MOST_CHANGES])) or "a detail of its schema differs"
    if len(found) > MOST_CHANGES:
        shown += f"; and {len(found) - MOST_CHANGES} more"
    return (
        f"{given.label} is not what {recorded.by} recorded on {recorded.at:%Y-%m-%d}: {shown}. "
        f"Give the changed type version={given.version + 1}, or the next that is free; or, where "
        f"no event of it was ever stored, run 'pgbus schema forget {given.topic} {given.version}'"
    )


def _same_fields(difference: Difference) -> bool:
    return difference.given.fingerprint == difference.recorded.schema.fingerprint


def installed_version(service: str | None) -> str:
    """Return the version of the distribution that is called like the service; ``""`` if none."""
    try:
        return "" if not service else version(service)
    except (PackageNotFoundError, ValueError):
        return ""

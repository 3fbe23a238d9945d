"""The registry of event types: recording them, and who publishes and accepts what."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import msgspec

from pgbus.core.recorded import AcceptedType, Acceptor, Difference, Publishing, Recorded
from pgbus.core.schema import EventSchema
from pgbus.store.arrays import numbers
from pgbus.store.query import Operation, Query, ask, ask_one, nothing, truth
from pgbus.store.statements import statement

_ACCEPTED = msgspec.json.Decoder(tuple[AcceptedType, ...])


def record(service: str, schemas: Sequence[EventSchema]) -> Operation[list[Difference]]:
    """Record types that the registry does not know; return those that it knows otherwise."""
    parameters = (
        service,
        [one.topic for one in schemas],
        numbers(one.version for one in schemas),
        [one.name for one in schemas],
        [one.key for one in schemas],
        [one.fingerprint for one in schemas],
        [_text(one) for one in schemas],
    )
    rows = yield from ask(Query(statement("schema", "record"), parameters, _Known))
    found = []
    for row in rows:
        given = schemas[row.n - 1]
        known = EventSchema(
            given.topic, given.version, given.name, _document(row.document), row.fingerprint
        )
        found.append(Difference(given, Recorded(known, row.recorded_by, row.recorded_at)))
    return found


class _Known(NamedTuple):
    n: int
    key: str | None
    fingerprint: str
    document: str
    recorded_by: str
    recorded_at: datetime


def record_publisher(
    schema: EventSchema,
    downcasts: Iterable[int],
    service: str,
    service_version: str,
    host: str,
) -> Operation[None]:
    """Note that a service publishes a type, and with it those earlier versions."""
    parameters = (
        schema.topic,
        schema.version,
        service,
        service_version,
        host,
        schema.fingerprint,
        numbers(sorted(downcasts)),
    )
    yield from ask(Query(statement("schema", "record_publisher"), parameters, nothing))


def accept(
    worker: int, service_version: str, accepted: Sequence[tuple[int, EventSchema]]
) -> Operation[None]:
    """Note what a worker accepts: the subscription's number with each type."""
    parameters = (
        worker,
        service_version,
        numbers(subscription for subscription, _ in accepted),
        [one.topic for _, one in accepted],
        numbers(one.version for _, one in accepted),
        [one.fingerprint for _, one in accepted],
        [_text(one) for _, one in accepted],
    )
    yield from ask(Query(statement("schema", "accept"), parameters, nothing))


def event_types(topic: str | None = None) -> Operation[list[Recorded]]:
    """Return every recorded type, or those of a topic, by topic and version."""
    return (yield from ask(Query(statement("schema", "event_types"), (topic,), _recorded)))


def _recorded(
    topic: str,
    version: int,
    name: str,
    _key: str | None,
    fingerprint: str,
    document: str,
    by: str,
    at: datetime,
) -> Recorded:
    return Recorded(EventSchema(topic, version, name, _document(document), fingerprint), by, at)


def publishers() -> Operation[list[Publishing]]:
    """Return which releases of which services publish what."""
    return (yield from ask(Query(statement("schema", "publishers"), (), _publishing)))


def _publishing(
    topic: str,
    version: int,
    service: str,
    service_version: str,
    downcasts: list[int],
    hosts: int,
    seen: timedelta,
) -> Publishing:
    return Publishing(topic, version, service, service_version, tuple(downcasts), hosts, seen)


def acceptors() -> Operation[list[Acceptor]]:
    """Return what live workers accept."""
    return (yield from ask(Query(statement("schema", "acceptors"), (), _acceptor)))


def _acceptor(
    subscription: str,
    service: str,
    service_version: str,
    host: str,
    pid: int,
    patterns: list[str],
    types: list[str],
    any_type: bool,
    accepted: str,
    seen: timedelta,
) -> Acceptor:
    return Acceptor(
        subscription,
        service,
        service_version,
        host,
        pid,
        tuple(patterns),
        frozenset(types),
        any_type,
        _ACCEPTED.decode(accepted),
        seen,
    )


def forget(topic: str, version: int) -> Operation[bool]:
    """Forget a type; false where there is none."""
    return (yield from ask_one(Query(statement("schema", "forget"), (topic, version), truth)))


def _text(schema: EventSchema) -> str:
    return msgspec.json.encode(schema.document).decode()


def _document(text: str) -> dict[str, Any]:
    document: dict[str, Any] = msgspec.json.decode(text)
    return document

"""What the schema commands work on: the event types of the code, and the registry."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from pgbus import Bus, Event
from pgbus.core.recorded import Recorded
from pgbus.core.review import Known, Subject, Taker, subject
from pgbus.errors import ConfigurationError
from pgbus.store import migrate, schemas
from pgbus.store.query import run
from pgbus.threads.contracts import accepted_by
from pgbus.threads.link import connect, translated


def event_types(kind: type[Event] = Event) -> Iterator[type[Event]]:
    """Yield every event type with a topic that is loaded, but for pgbus's own.

    That is what the module of a bus imports, too: which of it the service publishes shows only when
    it does.
    """
    for one in kind.__subclasses__():
        if one.__event_topic__ is not None and one.__module__.partition(".")[0] != "pgbus":
            yield one
        yield from event_types(one)


def code_subjects() -> list[Subject]:
    """Return the loaded event types, one for each topic and version.

    Raises:
        ConfigurationError: two classes claim the same topic and version, and differ; or the schema
            of one cannot be told.
    """
    found: dict[tuple[str, int], tuple[str, Subject]] = {}
    for kind in sorted(set(event_types()), key=_full_name):
        name, one = _full_name(kind), subject(kind)
        first, known = found.setdefault((one.schema.topic, one.schema.version), (name, one))
        if known.schema.fingerprint != one.schema.fingerprint:
            raise ConfigurationError(
                f"{first} and {name} are both {one.schema.label}, and differ: give one of them "
                "another version"
            )
    return [one for _, one in found.values()]


def _full_name(kind: type[Event]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def code_takers(bus: Bus) -> list[Taker]:
    """Return the subscriptions of a bus."""
    return [
        Taker(
            one.name,
            one.patterns,
            frozenset(one.types),
            tuple(accepted_by(one)),
            one.handler.fallback is not None,
        )
        for one in sorted(bus._definitions.values(), key=lambda one: one.name)
    ]


@contextmanager
def registry(bus: Bus) -> "Iterator[psycopg.Connection[Any]]":
    """Open a connection to the registry that a bus uses.

    Raises:
        StoreError: the database refused, could not be reached, or has no pgbus.
    """
    with translated(), connect(bus.dsn, name="pgbus schema") as connection:
        run(connection, migrate.check())
        yield connection


def read_known(bus: Bus) -> Known:
    """Return what the registry says.

    Raises:
        StoreError: the database refused, could not be reached, or has no pgbus.
    """
    with registry(bus) as connection:
        return Known(
            run(connection, schemas.event_types()),
            run(connection, schemas.publishers()),
            run(connection, schemas.acceptors()),
        )


def find_types(bus: Bus, topic: str) -> list[Recorded]:
    """Return the recorded versions of a topic, oldest first.

    Raises:
        ConfigurationError: there is none.
        StoreError: the database refused, could not be reached, or has no pgbus.
    """
    with registry(bus) as connection:
        found = run(connection, schemas.event_types(topic))
    if not found:
        raise ConfigurationError(f"the registry knows no event type of {topic!r}")
    return found


def find_version(found: list[Recorded], version: int) -> Recorded:
    """Return one of a topic's versions.

    Raises:
        ConfigurationError: it is not among them.
    """
    for one in found:
        if one.schema.version == version:
            return one
    known = ", ".join(str(one.schema.version) for one in found)
    raise ConfigurationError(
        f"the registry knows no version {version} of {found[0].schema.topic!r} (it knows {known})"
    )

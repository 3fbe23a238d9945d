"""What the registry knows of event types, and of who uses them."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import msgspec

from pgbus.core.schema import EventSchema


@dataclass(frozen=True, slots=True)
class Recorded:
    """An event type as the registry knows it."""

    schema: EventSchema
    by: str
    """The service that recorded it."""
    at: datetime


@dataclass(frozen=True, slots=True)
class Difference:
    """A type that the registry knows otherwise."""

    given: EventSchema
    recorded: Recorded


class Publishing(NamedTuple):
    """A release of a service that publishes a type."""

    topic: str
    version: int
    service: str
    service_version: str
    """Empty where it does not say."""
    downcasts: tuple[int, ...]
    """The earlier versions that are sent along."""
    hosts: int
    seen: timedelta
    """How long ago the last of its processes was seen to publish the type, within an hour."""


class AcceptedType(msgspec.Struct, frozen=True):
    """A type that a live worker's handler decodes."""

    topic: str
    version: int
    fingerprint: str
    document: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Acceptor:
    """A live worker of a subscription."""

    subscription: str
    service: str
    service_version: str
    """Empty where it does not say."""
    host: str
    pid: int
    patterns: tuple[str, ...]
    types: frozenset[str]
    """``topic@version`` of all that it decodes, by upcasts, too."""
    any_type: bool
    accepted: tuple[AcceptedType, ...]
    """The types of its handler's annotation."""
    seen: timedelta
    """How long ago its last heartbeat was."""

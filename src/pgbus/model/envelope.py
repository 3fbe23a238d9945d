"""What travels beside a body: the headers of a message and what a caller says of an event.

The body is the event's JSON and nothing else. The headers carry the CloudEvents 1.0 context
attributes under their own names, pgbus's few under the prefix ``pgbus-``, pgmq's FIFO group, and
what the publisher added.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec

# CloudEvents 1.0 context attributes. `type` and `topic` are the same word here.
ID = "id"
SOURCE = "source"
TYPE = "type"
TIME = "time"
SPEC_VERSION = "specversion"
CONTENT_TYPE = "datacontenttype"
# pgbus's own.
TOPIC = "pgbus-topic"
VERSION = "pgbus-version"
CORRELATION = "correlationid"
CAUSATION = "causationid"
DOWNCASTS = "pgbus-downcasts"
"""The body as earlier versions have it, by version."""
DEAD = "pgbus-dead"
# pgmq's FIFO group.
KEY = "x-pgmq-group"

RESERVED = frozenset(
    {ID, SOURCE, TYPE, TIME, SPEC_VERSION, CONTENT_TYPE, CORRELATION, CAUSATION, KEY}
)
RESERVED_PREFIX = "pgbus-"
CLOUDEVENTS_VERSION = "1.0"


class Outgoing(msgspec.Struct, frozen=True):
    """An event under an explicit topic, for ``publish_many`` and ``Context.publish``.

    Parameters are those of :meth:`pgbus.Bus.publish`.
    """

    topic: str
    payload: Any
    key: str | None = None
    headers: Mapping[str, str] | None = None
    delay: float | timedelta | None = None
    at: datetime | None = None
    id: UUID | None = None

    def __repr__(self) -> str:
        """Show neither the payload nor the headers."""
        return f"Outgoing(topic={self.topic!r}, key={self.key!r}, id={self.id!r})"


class Receipt(msgspec.Struct, frozen=True):
    """What became of a published event."""

    id: UUID
    """The event's id; time-ordered (UUIDv7) where pgbus made it."""
    topic: str
    queues: int
    """How many queues it was routed to; 0 where nothing matched or it was a duplicate."""
    duplicate: bool
    """True where an event with this id had been published within the dedup window."""


class Incoming(msgspec.Struct, frozen=True):
    """The headers of a delivered message, read; every field may be missing in a foreign one."""

    id: UUID | None
    topic: str | None
    version: int | None
    key: str | None
    correlation_id: str | None
    causation_id: str | None
    published_at: datetime | None
    headers: Mapping[str, Any]
    """What is neither pgbus's nor CloudEvents': a foreign message's values may be any JSON."""
    source: str | None = None

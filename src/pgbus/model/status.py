"""What a bus shows of itself."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID


@dataclass(frozen=True, slots=True)
class SubscriptionStatus:
    """A subscription at one moment; the counts are numbers of events."""

    name: str
    ready: int
    """Visible, and neither in flight nor parked."""
    in_flight: int
    """Handed out under a lease."""
    delayed: int
    """Waiting for their time: scheduled, or between two attempts."""
    parked: int
    """Behind a dead letter of their key, in a subscription with ``on_exhausted="park"``."""
    dead_letters: int
    oldest_age: timedelta | None
    """How long ago the oldest ready event came into the queue: when it was published; a delayed one
    when it was moved there, once it was due."""
    workers: int
    """Live processes that declare the subscription."""


@dataclass(frozen=True, slots=True)
class Binding:
    """A pattern that brings events to a queue: a row of ``pgmq.topic_bindings``."""

    pattern: str
    queue: str
    ours: bool
    """pgbus made it, and may remove it."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that a subscription gave up on, with everything needed to find out why.

    Its ``repr`` shows neither the event nor what the handler said of it.
    """

    id: UUID | None
    """The event's id; ``None`` for a foreign message without one."""
    number: int
    """The dead letter's own number in its queue."""
    topic: str | None
    key: str | None
    body: Any = field(repr=False)
    """The decoded JSON."""
    headers: dict[str, Any] = field(repr=False)
    error: str = field(repr=False)
    """``type: message`` of the last failure."""
    error_type: str
    traceback: str = field(repr=False)
    attempts: int
    first_at: datetime
    """When the event was first tried and failed."""
    last_at: datetime
    """When it became a dead letter."""

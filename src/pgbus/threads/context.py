"""What a handler is told of the event in its hands, and what it may do under its lease."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from pgbus.core.cloudevents import to_cloudevent
from pgbus.core.encoding import MISSING, Encoded, outgoing
from pgbus.errors import LeaseLost, PayloadError
from pgbus.model.delivery import Message
from pgbus.model.envelope import Incoming, Outgoing
from pgbus.model.event import Event
from pgbus.threads.subscription import Hold


class Context:
    """The delivery that a handler is called for.

    Attributes:
        id: the event's id; ``None`` for a foreign message without one.
        topic: ``None`` for a foreign message that does not say.
        key: the event's key, or ``None``.
        headers: the publisher's own headers.
        attempt: the number of this attempt, from 1; failures and deaths of workers count.
        published_at: when the event was published.
        subscription: the subscription's name.
        correlation_id: what all events of one cause have in common, if the publisher said so; else
            the id of the first of them.
        causation_id: the id of the event that caused this one.
        source: the service that published it, as a URI-reference; ``None`` for a foreign message
            that does not say.
    """

    __slots__ = (
        "_encode",
        "_extend",
        "_hold",
        "_outgoing",
        "_version",
        "attempt",
        "causation_id",
        "correlation_id",
        "headers",
        "id",
        "key",
        "published_at",
        "source",
        "subscription",
        "topic",
    )

    def __init__(
        self,
        message: Message,
        incoming: Incoming,
        subscription: str,
        hold: Hold,
        encode: "Callable[[Outgoing, Context], Encoded]",
        extend: Callable[[float], None],
    ) -> None:
        self.id: UUID | None = incoming.id
        self.topic: str | None = incoming.topic
        self.key: str | None = incoming.key
        self.headers: Mapping[str, Any] = incoming.headers
        self.attempt: int = message.attempt
        self.published_at: datetime = incoming.published_at or message.enqueued_at
        self.subscription: str = subscription
        self.correlation_id: str | None = incoming.correlation_id
        self.causation_id: str | None = incoming.causation_id
        self.source: str | None = incoming.source
        self._hold = hold
        self._encode = encode
        self._extend = extend
        self._outgoing: list[Encoded] = []
        self._version = incoming.version

    @property
    def lease_lost(self) -> bool:
        """Whether another worker may hold the key by now; what is written then will not count."""
        return self._hold.lost

    def publish(
        self,
        topic: str | Event,
        payload: Any = MISSING,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        delay: float | timedelta | None = None,
        at: datetime | None = None,
        id: UUID | None = None,  # noqa: A002 - named as Bus.publish names it
    ) -> UUID:
        """Publish with the acknowledgement: a handler that is retried never publishes twice.

        The event carries this one's id as its cause. Parameters are those of
        :meth:`pgbus.Bus.publish`.

        Returns:
            The event's id.

        Raises:
            PayloadError, InvalidTopic, ConfigurationError: see :meth:`pgbus.Bus.publish`.
        """
        item = outgoing(topic, payload, key=key, headers=headers, delay=delay, at=at, id=id)
        encoded = caused(self, item)
        self._outgoing.append(encoded)
        return encoded.id

    def to_cloudevent(self, event: Any) -> bytes:
        """Write the event in hand in CloudEvents' structured JSON form, to be sent elsewhere.

        Parameters:
            event: what the handler got, or what is to be sent in its place.

        Returns:
            ``application/cloudevents+json``; the publisher's headers are its extensions.

        Raises:
            PayloadError: a foreign message that names no id, topic or source, or headers that
                CloudEvents cannot have; :func:`pgbus.to_cloudevent` takes others.
        """
        for name in ("id", "topic", "source"):
            if getattr(self, name) is None:
                raise PayloadError(
                    f"to_cloudevent: the message does not say its {name}; use pgbus.to_cloudevent"
                )
        assert self.id is not None
        assert self.topic is not None
        assert self.source is not None
        headers = dict(self.headers)
        return to_cloudevent(
            self.topic,
            event,
            source=self.source,
            id=self.id,
            time=self.published_at,
            key=self.key,
            version=self._version,
            subject=headers.pop("subject", None),
            dataschema=headers.pop("dataschema", None),
            correlation_id=self.correlation_id,
            causation_id=self.causation_id,
            extensions=headers,
        )

    def extend(self, seconds: float) -> None:
        """Let this call go on for ``seconds`` from now; without a ``timeout`` it may anyway.

        Raises:
            LeaseLost: nothing that the call does counts any more: it may as well end, with this.
            ConfigurationError: ``seconds`` is no positive number.
        """
        if self.lease_lost:
            raise lost_meanwhile(self.subscription)
        self._extend(seconds)

    def log_extra(self) -> dict[str, Any]:
        """Return the ``extra`` of log records about this delivery."""
        return {
            "event_id": None if self.id is None else str(self.id),
            "topic": self.topic,
            "key": self.key,
            "attempt": self.attempt,
            "subscription": self.subscription,
        }


def lost_meanwhile(subscription: str) -> LeaseLost:
    """Return what a handler is told that goes on under a lease that was lost."""
    return LeaseLost(
        f"subscription {subscription}: the lease was lost while the handler ran; nothing that it "
        "does counts any more, and the event is delivered again"
    )


def caused(context: Context, item: Outgoing) -> Encoded:
    """Make an event ready to be stored that a delivery is the cause of."""
    return context._encode(item, context)


def published(context: Context) -> list[Encoded]:
    """Return what was published through a context, for the settlement."""
    return context._outgoing


@dataclass(frozen=True, slots=True)
class Incident:
    """Something went wrong with a delivery; what ``bus.on_error`` callbacks get."""

    kind: Literal["failure", "fenced", "dead_letter"]
    """``failure``: an attempt failed and will be repeated. ``fenced``: the lease was lost, nothing
    counts. ``dead_letter``: the event was given up."""
    error: BaseException
    context: Context

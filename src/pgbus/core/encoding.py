"""From an event to what is stored.

Encoding checks everything that PostgreSQL would refuse, so that a statement with many events does
not fail because of one, and no payload reaches the server's log.
"""

import math
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import quote
from uuid import UUID

import msgspec

from pgbus.core.account import text_of
from pgbus.core.evolution import lowered
from pgbus.core.storable import locate, string_fault, text_fault, value_fault
from pgbus.errors import (
    ConfigurationError,
    InvalidTopic,
    PayloadError,
    PayloadTooLarge,
)
from pgbus.model import envelope
from pgbus.model.config import MAX_DELAY
from pgbus.model.envelope import Outgoing
from pgbus.model.event import Event, key_of
from pgbus.model.names import check_topic

MAX_BODY: Final = 2**20
"""The default limit of a body, in bytes of JSON: 1 MiB."""
MAX_BODY_CEILING: Final = 32 * 2**20
"""The highest limit of a body that can be set. Beyond twice this, an array of small numbers grows
over the 256 MiB that a ``jsonb`` can have."""
MAX_HEADERS: Final = 8 * 2**10
"""The default limit of the publisher's own headers, in bytes of JSON: 8 KiB."""

_ENCODER: Final = msgspec.json.Encoder()
_NO_URI: Final = re.compile(r"[^A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]|%(?![0-9A-Fa-f]{2})")


class _Missing:
    """No payload was given; ``None`` is one."""


MISSING: Final = _Missing()


class Encoded(msgspec.Struct, frozen=True):
    """An event that is ready to be stored."""

    id: UUID
    topic: str
    key: str | None
    body: str
    """JSON. Text and not bytes, because psycopg sends a list of ``str`` as ``text[]``."""
    headers: str
    """JSON, an object."""
    due: datetime | timedelta | None
    """When it enters its queues: an aware time, or counted from the database's now; ``None`` at
    once."""
    given_id: bool
    """The publisher chose the id: the same id again, within the dedup window, stores nothing."""


def outgoing(
    topic: str | Event,
    payload: Any = MISSING,
    *,
    key: str | None = None,
    headers: Mapping[str, str] | None = None,
    delay: float | timedelta | None = None,
    at: datetime | None = None,
    id: UUID | None = None,  # noqa: A002 - named as the public argument is
) -> Outgoing:
    """Put the arguments of ``publish`` together: a topic and a payload, or an event alone.

    Parameters:
        topic: the topic, or an event whose type names it.
        payload: what is published under an explicit topic.
        key: orders the event; it wins over the key of an event's type.
        headers: the publisher's own headers.
        delay: seconds, or a ``timedelta``, until the event is due.
        at: when the event is due.
        id: the event's id, for publishing idempotently.

    Raises:
        ConfigurationError: there is no payload, two of them, or an event type without a topic.
    """
    if isinstance(topic, str):
        if isinstance(payload, _Missing):
            raise ConfigurationError(
                f"publish to {topic!r}: there is no payload; call publish(topic, payload), or "
                "publish(event) with an Event"
            )
        return Outgoing(topic, payload, key, headers, delay, at, id)
    if not isinstance(payload, _Missing):
        raise ConfigurationError(
            f"publish: the topic is a {type(topic).__name__}, not a str; call "
            "publish(topic, payload), or publish(event)"
        )
    return Outgoing(_own_topic(topic), topic, key, headers, delay, at, id)


class Encoder:
    """Makes events ready to be stored. It holds settings alone and may be shared by threads.

    Parameters:
        source: the CloudEvents ``source`` of all events, a service's name; what cannot stand in a
            URI-reference is percent-encoded.
        max_body: the longest body in bytes of JSON, at most 32 MiB.
        max_headers: the longest headers of a publisher in bytes of JSON, without those that pgbus
            adds.

    Raises:
        ConfigurationError: a limit is out of its range, or the source cannot be stored.
    """

    def __init__(
        self, *, source: str, max_body: int = MAX_BODY, max_headers: int = MAX_HEADERS
    ) -> None:
        if not 1 <= max_body <= MAX_BODY_CEILING:
            raise ConfigurationError(f"max_body={max_body} is not in 1 to {MAX_BODY_CEILING} bytes")
        if not 2 <= max_headers <= MAX_BODY_CEILING:
            raise ConfigurationError(
                f"max_headers={max_headers} is not in 2 to {MAX_BODY_CEILING} bytes"
            )
        if not source or string_fault(source) is not None:
            raise ConfigurationError("the source of events is empty or no text")
        self._source = uri_reference(source)
        self._max_body = max_body
        self._max_headers = max_headers

    def encode(
        self,
        item: Event | Outgoing,
        *,
        new_id: UUID,
        time: str,
        correlation_id: str | None = None,
        causation_id: str | None = None,
    ) -> Encoded:
        """Check an event and encode it.

        Parameters:
            item: an event, or a payload under an explicit topic.
            new_id: the id of an event that brings none.
            time: when it is published, RFC 3339 in UTC, such as ``2026-01-31T12:00:00Z``.
            correlation_id: what all events of one cause have in common.
            causation_id: the id of the event that caused this one.

        Raises:
            PayloadError: the body, a header or the key cannot be encoded, stored or read back.
            PayloadTooLarge: the body or the headers are over their limit.
            InvalidTopic: the topic is no topic.
            ConfigurationError: an event type without a topic, or a delay, time or id that is none.
        """
        payload: Any
        if isinstance(item, Outgoing):
            topic, payload, given_key, given_id = item.topic, item.payload, item.key, item.id
            _check_topic(topic)
            _check_id(topic, given_id)
            own = self._own_headers(topic, item.headers) if item.headers else None
            due = _due(topic, item.delay, item.at)
        else:
            topic, payload = _own_topic(item), item
            given_key = given_id = own = due = None
        key = self._key(topic, payload, given_key)
        event_id = new_id if given_id is None else given_id
        headers: dict[str, Any] = {
            envelope.ID: event_id,
            envelope.SOURCE: self._source,
            envelope.TYPE: topic,
            envelope.TIME: time,
            envelope.SPEC_VERSION: envelope.CLOUDEVENTS_VERSION,
            envelope.CONTENT_TYPE: "application/json",
            envelope.TOPIC: topic,
        }
        if isinstance(payload, Event):
            headers[envelope.VERSION] = type(payload).__event_version__
            if type(payload).__event_downcasts__:
                headers[envelope.DOWNCASTS] = self._lowered(topic, payload)
        if correlation_id is not None:
            headers[envelope.CORRELATION] = correlation_id
        if causation_id is not None:
            headers[envelope.CAUSATION] = causation_id
        if key is not None:
            headers[envelope.KEY] = key
        if own is not None:
            headers.update(own)
        return Encoded(
            event_id,
            topic,
            key,
            self._body(topic, payload),
            _headers_text(topic, headers),
            due,
            given_id is not None,
        )

    def _body(self, topic: str, payload: Any) -> str:
        try:
            text = _ENCODER.encode(payload)
        except RecursionError:
            raise PayloadError(
                f"{topic}: the payload is nested too deep, or contains itself"
            ) from None
        except UnicodeEncodeError:
            where = locate(payload, _leaf_fault) or "holds a lone surrogate"
            raise PayloadError(f"{topic}: the payload {where}") from None
        except (TypeError, ValueError, OverflowError, AttributeError, BufferError) as error:
            # The driver's and msgspec's words may quote a value: say what was found instead.
            where = locate(payload, _leaf_fault) or _whole_fault(error)
            raise PayloadError(f"{topic}: the payload {where}") from None
        if len(text) > self._max_body:
            raise PayloadTooLarge(
                f"{topic}: the body has {len(text)} bytes of JSON; {self._max_body} are allowed"
            )
        try:
            body = text.decode()
        except UnicodeDecodeError as error:
            raise PayloadError(
                f"{topic}: the body is not UTF-8 (byte {error.start}); a msgspec.Raw must be"
            ) from None
        fault = text_fault(body)
        if fault is not None:
            located = locate(payload, _leaf_fault)
            raise PayloadError(
                f"{topic}: the body {fault}"
                if located is None
                else f"{topic}: the payload {located}"
            )
        fault = value_fault(payload, body)
        if fault is not None:
            raise PayloadError(f"{topic}: the payload {fault}")
        return body

    def _lowered(self, topic: str, event: Event) -> dict[str, msgspec.Raw]:
        try:
            forms = lowered(type(event), self._body(topic, event))
        except PayloadError as error:
            raise PayloadError(f"{topic}: {error}") from error
        return {one: msgspec.Raw(self._body(topic, form).encode()) for one, form in forms.items()}

    def _key(self, topic: str, payload: Any, key: str | None) -> str | None:
        if key is None and isinstance(payload, Event):
            key = key_of(payload)
        if key is None:
            return None
        if not isinstance(key, str):
            raise PayloadError(f"{topic}: key is a str, not a {type(key).__name__}")
        if not key:
            raise PayloadError(
                f"{topic}: the key is empty; an event without a key has None, and is unordered"
            )
        if len(key) > self._max_body:
            raise PayloadTooLarge(
                f"{topic}: the key has {len(key)} characters; {self._max_body} are allowed"
            )
        fault = string_fault(key)
        if fault is not None:
            raise PayloadError(f"{topic}: the key {fault}")
        return key

    def _own_headers(self, topic: str, headers: Mapping[str, str]) -> Mapping[str, str]:
        if not isinstance(headers, Mapping):
            raise PayloadError(
                f"{topic}: headers are a mapping of str to str, not a {type(headers).__name__}"
            )
        for name, value in headers.items():
            if not isinstance(name, str):
                raise PayloadError(
                    f"{topic}: the name of a header is a str, not a {type(name).__name__}"
                )
            fault = string_fault(name)
            if fault is not None:
                raise PayloadError(f"{topic}: the name of a header {fault}")
            if name in envelope.RESERVED or name.startswith(envelope.RESERVED_PREFIX):
                raise PayloadError(f"{topic}: the header {name!r} is one that pgbus itself writes")
            if not isinstance(value, str):
                raise PayloadError(
                    f"{topic}: the header {name!r} is a str, not a {type(value).__name__}"
                )
            fault = string_fault(value)
            if fault is not None:
                raise PayloadError(f"{topic}: the header {name!r} {fault}")
        size = len(_ENCODER.encode(dict(headers)))
        if size > self._max_headers:
            raise PayloadTooLarge(
                f"{topic}: the headers have {size} bytes of JSON; {self._max_headers} are allowed"
            )
        return headers


def uri_reference(text: str) -> str:
    """Return a text as a URI-reference (RFC 3986): percent-encoded where it has to be."""
    return _NO_URI.sub(lambda found: quote(found[0], safe=""), text)


def _own_topic(event: Event) -> str:
    if not isinstance(event, Event):
        raise ConfigurationError(
            f"a {type(event).__name__} names no topic: publish it under an explicit one, or make "
            "its type an Event"
        )
    topic = type(event).__event_topic__
    if topic is None:
        raise ConfigurationError(
            f"event {type(event).__name__} names no topic: give its class topic=…, or publish it "
            "under an explicit one"
        )
    return topic


def _check_topic(topic: str) -> None:
    if not isinstance(topic, str):
        raise InvalidTopic(f"a topic is a str, not a {type(topic).__name__}")
    check_topic(topic)


def _check_id(topic: str, given: UUID | None) -> None:
    if given is not None and not isinstance(given, UUID):
        raise ConfigurationError(f"{topic}: id is a UUID, not a {type(given).__name__}")


def _headers_text(topic: str, headers: dict[str, Any]) -> str:
    # Each value was checked, or is pgbus's own; those of a foreign cause come from jsonb.
    try:
        return _ENCODER.encode(headers).decode()
    except (TypeError, ValueError) as error:
        raise PayloadError(
            f"{topic}: the headers cannot be encoded ({type(error).__name__})"
        ) from None


def _due(
    topic: str, delay: float | timedelta | None, at: datetime | None
) -> datetime | timedelta | None:
    if at is not None:
        if delay is not None:
            raise ConfigurationError(f"{topic}: give delay or at, not both")
        if not isinstance(at, datetime):
            raise ConfigurationError(f"{topic}: at is a datetime, not a {type(at).__name__}")
        if at.utcoffset() is None:
            raise ConfigurationError(f"{topic}: at has no time zone; make it aware")
        return at
    if delay is None:
        return None
    if isinstance(delay, bool) or not isinstance(delay, (int, float, timedelta)):
        raise ConfigurationError(
            f"{topic}: delay is seconds or a timedelta, not a {type(delay).__name__}"
        )
    seconds = delay.total_seconds() if isinstance(delay, timedelta) else delay
    if not 0 <= seconds <= MAX_DELAY.total_seconds() or math.isnan(seconds):
        raise ConfigurationError(f"{topic}: delay is not in 0 s to {MAX_DELAY.days} days")
    if not seconds:
        return None
    return delay if isinstance(delay, timedelta) else timedelta(seconds=delay)


def _whole_fault(error: Exception) -> str:
    if text_of(error).startswith("Only dicts with"):
        return "holds a dict with a key that has no JSON form"
    return f"cannot be encoded ({type(error).__name__})"


def _leaf_fault(leaf: Any) -> str | None:
    if isinstance(leaf, str):
        return string_fault(leaf)
    try:
        _ENCODER.encode(leaf)
    except TypeError:
        return f"is a {type(leaf).__qualname__}, which has no JSON form"
    except (ValueError, OverflowError, BufferError):
        return f"is a {type(leaf).__qualname__} that has no JSON form"
    return None

"""CloudEvents 1.0: events in the structured JSON form, for those who do not share the database.

The headers of a message carry CloudEvents attributes as they are. Two have other names there,
because pgmq and pgbus look for them: the key is CloudEvents' extension ``partitionkey`` here, and
the version of the type is ``dataversion``.
"""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Generic, TypeVar, overload
from uuid import NAMESPACE_URL, UUID, uuid5

import msgspec

from pgbus.core.bodies import Bodies, UnknownType, inspect_bodies
from pgbus.core.encoding import MAX_BODY_CEILING, MISSING, Encoder, outgoing
from pgbus.errors import ConfigurationError, PayloadError
from pgbus.model import envelope
from pgbus.model.checks import check_whole
from pgbus.model.envelope import Incoming, Outgoing
from pgbus.model.event import Event

T = TypeVar("T")
Attribute = str | int | bool
"""What the value of an extension attribute is."""

KEY: Final = "partitionkey"
VERSION: Final = "dataversion"
SUBJECT: Final = "subject"
SCHEMA: Final = "dataschema"
DATA: Final = "data"
BASE64: Final = "data_base64"

_NAMES: Final = {envelope.KEY: KEY, envelope.VERSION: VERSION}
_NOT_SENT: Final = frozenset({envelope.TOPIC, envelope.DOWNCASTS})
"""Of a message's headers: one repeats the type, the other is for subscribers of the same bus."""
_OWN: Final = frozenset(
    {
        *(envelope.SPEC_VERSION, envelope.ID, envelope.SOURCE, envelope.TYPE, envelope.TIME),
        *(envelope.CONTENT_TYPE, envelope.CORRELATION, envelope.CAUSATION),
        *(KEY, VERSION, SUBJECT, SCHEMA, DATA),
    }
)
"""What no other extension can be called."""

_NAME: Final = re.compile(r"[a-z0-9]+")
# CloudEvents §3.1, String: no control characters, no surrogates, no noncharacters.
_NO_TEXT: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff"
    + "".join(f"{chr(plane + 0xFFFE)}{chr(plane + 0xFFFF)}" for plane in range(2**16, 2**20, 2**16))
    + "\U0010fffe\U0010ffff]"
)
_JSON: Final = re.compile(r"(?:application|text)/(?:[^;/\s]+\+)?json\s*(?:;.*)?", re.IGNORECASE)
_WHOLE: Final = re.compile(r"[1-9][0-9]{0,9}")

_MEMBERS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ANYTHING: Final = msgspec.json.Decoder()
_BYTES: Final = msgspec.json.Decoder(bytes)
_TIME: Final = msgspec.json.Decoder(Annotated[datetime, msgspec.Meta(tz=True)])


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudEvent(Generic[T]):
    """An event that came in CloudEvents' structured form; :func:`pgbus.from_cloudevent` reads it.

    What is ``None`` was not said.
    """

    id: str
    """Unique together with ``source``; of an event of pgbus, a UUID."""
    source: str
    """Who published it; of an event of pgbus, the service."""
    type: str
    """Of an event of pgbus, its topic."""
    data: T
    """The event itself."""
    time: datetime | None = None
    """When it was published; aware."""
    subject: str | None = None
    dataschema: str | None = None
    key: str | None = None
    """The attribute ``partitionkey``."""
    version: int | None = None
    """Of the event's type; the attribute ``dataversion``."""
    correlation_id: str | None = None
    causation_id: str | None = None
    extensions: Mapping[str, Attribute] = field(default_factory=dict)
    """All other attributes."""

    def outgoing(self, topic: str | None = None) -> Outgoing:
        """Return the event for :meth:`pgbus.Bus.publish_many`, under its own id.

        Published again, the same event is stored once (within the bus's ``dedup_window``). An id
        that is no UUID, which is unique within its source alone, becomes one that is made of both.
        The key comes along, and as headers the subject, the schema and the extensions. Source,
        time and causes do not: it is another bus's event now.

        Parameters:
            topic: under which it is to be published; left out, its ``type``.
        """
        said = {SUBJECT: self.subject, SCHEMA: self.dataschema, **self.extensions}
        headers = {name: _as_text(value) for name, value in said.items() if value is not None}
        event_id = _uuid(self.id) or uuid5(NAMESPACE_URL, f"{self.source}\n{self.id}")
        return Outgoing(
            self.type if topic is None else topic, self.data, self.key, headers, id=event_id
        )


def to_cloudevent(
    topic: str | Event,
    payload: Any = MISSING,
    *,
    source: str,
    id: UUID,  # noqa: A002 - named as CloudEvents names it
    time: datetime | None = None,
    key: str | None = None,
    version: int | None = None,
    subject: str | None = None,
    dataschema: str | None = None,
    correlation_id: str | None = None,
    causation_id: str | None = None,
    extensions: Mapping[str, Attribute] | None = None,
) -> bytes:
    """Write an event in CloudEvents' structured JSON form: ``application/cloudevents+json``.

    In a handler, :meth:`pgbus.Context.to_cloudevent` knows all of this.

    Parameters:
        topic: the topic, which becomes the ``type``, or an event whose type says so.
        payload: an event, or anything that msgspec can encode.
        source: who publishes, a URI-reference, such as the service's name; what cannot stand in one
            is percent-encoded.
        id: the event's id. Keep it when the event is sent again.
        time: the aware moment when it was published.
        key: the ``partitionkey``; by default the one that the event's type names.
        version: the ``dataversion`` of a payload that is no event; an event has its type's.
        subject: what the event is about, in the words of its source.
        dataschema: the URI of a schema of the event.
        correlation_id: what all events of one cause have in common.
        causation_id: the id of the event that caused this one.
        extensions: further attributes. Their names are lower-case letters and digits.

    Returns:
        UTF-8.

    Raises:
        PayloadError: the event cannot be encoded, or an attribute is none that CloudEvents has.
        InvalidTopic, ConfigurationError: the call itself is wrong.
    """
    if time is not None and time.utcoffset() is None:
        raise ConfigurationError("to_cloudevent: time has no time zone; make it aware")
    if version is not None:
        check_whole("to_cloudevent: version", version, 1)
    encoded = Encoder(source=source, max_body=MAX_BODY_CEILING).encode(
        outgoing(topic, payload, key=key, id=id),
        new_id=id,
        time="" if time is None else _rfc3339(time),
        correlation_id=correlation_id,
        causation_id=causation_id,
    )
    attributes = _attributes_of(encoded.headers)
    attributes.setdefault(VERSION, version)
    attributes |= {SUBJECT: subject, SCHEMA: dataschema}
    if time is None:
        del attributes[envelope.TIME]
    attributes = {name: value for name, value in attributes.items() if value is not None}
    for name in extensions or {}:
        if name in _OWN:
            raise PayloadError(f"the extension {name!r} is an attribute of another meaning")
    attributes |= extensions or {}
    _check(attributes)
    return msgspec.json.encode({**attributes, DATA: msgspec.Raw(encoded.body.encode())})


@overload
def from_cloudevent(text: str | bytes, kind: type[T]) -> CloudEvent[T]: ...
@overload
def from_cloudevent(text: str | bytes, kind: Any = Any) -> CloudEvent[Any]: ...
def from_cloudevent(text: str | bytes, kind: Any = Any) -> CloudEvent[Any]:
    """Read an event in CloudEvents' structured JSON form, whoever wrote it.

    The event is decoded as a handler gets it: ``kind`` may be a union, whose event types are told
    apart by ``type`` and ``dataversion``, and upcasts raise what is older.

    Parameters:
        text: one event; JSON, in UTF-8 where it is ``bytes``.
        kind: what the annotation of a handler would be; left out, the event is decoded JSON.

    Returns:
        The attributes, and the event as ``data``.

    Raises:
        PayloadError: it is no CloudEvent of version 1.0, its data is no JSON, or does not fit.
        ConfigurationError: nothing can be decoded as ``kind``, or ``text`` is none.
    """
    bodies = _bodies(kind)
    members = _members(text)
    data = _data(members)
    attributes = _attributes(members)
    version = _version(attributes)
    own = {name: attributes.pop(name, None) for name in _OWN - {DATA, VERSION}}
    incoming = Incoming(None, own[envelope.TYPE], version, None, None, None, None, {})
    try:
        event = bodies.decode(incoming, data)
    except UnknownType as error:
        raise PayloadError(str(error)) from error
    return CloudEvent(
        id=own[envelope.ID],
        source=own[envelope.SOURCE],
        type=own[envelope.TYPE],
        data=event,
        time=own[envelope.TIME],
        subject=own[SUBJECT],
        dataschema=own[SCHEMA],
        key=own[KEY],
        version=version,
        correlation_id=own[envelope.CORRELATION],
        causation_id=own[envelope.CAUSATION],
        extensions=attributes,
    )


def _attributes_of(headers: str) -> dict[str, Any]:
    """Return what the headers of a message say under the names that CloudEvents has for it."""
    found: dict[str, Any] = msgspec.json.decode(headers)
    spec = {envelope.SPEC_VERSION: found.pop(envelope.SPEC_VERSION)}  # first, as readers expect it
    return spec | {_NAMES.get(name, name): found[name] for name in found if name not in _NOT_SENT}


@functools.lru_cache(maxsize=256)
def _bodies(kind: Any) -> Bodies:
    return inspect_bodies(kind, "from_cloudevent")


def _members(text: Any) -> dict[str, msgspec.Raw]:
    if not isinstance(text, (str, bytes, bytearray, memoryview)):
        raise ConfigurationError(f"from_cloudevent reads text, not a {type(text).__name__}")
    try:
        return _MEMBERS.decode(text)
    except UnicodeError:
        raise PayloadError("no CloudEvent: it is not UTF-8") from None
    except RecursionError:
        raise PayloadError("no CloudEvent: it is nested too deep") from None
    except msgspec.ValidationError:
        raise PayloadError("no CloudEvent: it is JSON, but no object") from None
    except msgspec.DecodeError as error:
        raise PayloadError(f"no CloudEvent: {error}") from None


def _data(members: dict[str, msgspec.Raw]) -> bytes:
    """Return the JSON of the event, and take it out of the members."""
    data = bytes(members.pop(DATA, b"null"))
    encoded = bytes(members.pop(BASE64, b"null"))
    if encoded == b"null":
        return data
    if data != b"null":
        raise PayloadError(f"no CloudEvent: it has both {DATA!r} and {BASE64!r}")
    try:
        return _BYTES.decode(encoded)
    except msgspec.MsgspecError:
        raise PayloadError(f"no CloudEvent: {BASE64!r} is no string in base64") from None


def _attributes(members: dict[str, msgspec.Raw]) -> dict[str, Any]:
    """Decode and check the attributes; ``null`` is as good as absent."""
    found = {name: _decode_attribute(name, raw) for name, raw in members.items()}
    attributes = {name: value for name, value in found.items() if value is not None}
    if (spec := attributes.get(envelope.SPEC_VERSION)) != envelope.CLOUDEVENTS_VERSION:
        what = "it has no 'specversion'" if spec is None else "its 'specversion' is not '1.0'"
        raise PayloadError(f"no CloudEvent of version 1.0: {what}")
    for name in (envelope.ID, envelope.SOURCE, envelope.TYPE):
        if name not in attributes:
            raise PayloadError(f"no CloudEvent: it has no {name!r}")
    _check(attributes)
    if _JSON.fullmatch(attributes.get(envelope.CONTENT_TYPE, "application/json")) is None:
        raise PayloadError("the CloudEvent's data is no JSON, says its 'datacontenttype'")
    if envelope.TIME in attributes:
        attributes[envelope.TIME] = _moment(members[envelope.TIME])
    return attributes


def _decode_attribute(name: str, raw: msgspec.Raw) -> Any:
    try:
        return _ANYTHING.decode(raw)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise PayloadError(f"no CloudEvent: the attribute {name!r} cannot be read") from None


def _moment(raw: msgspec.Raw) -> datetime:
    try:
        moment: datetime = _TIME.decode(raw)
    except msgspec.MsgspecError:
        raise PayloadError("no CloudEvent: 'time' is no RFC 3339 timestamp") from None
    return moment


def _version(attributes: dict[str, Any]) -> int | None:
    """Take the version of the type out of the attributes: a number, or one as text."""
    value = attributes.pop(VERSION, None)
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        return int(value)
    if value is not None and (type(value) is not int or value < 1):
        raise PayloadError(f"the CloudEvent's {VERSION!r} is no version: a whole number from 1")
    return value


def _check(attributes: Mapping[Any, Any]) -> None:
    """Raise unless all attributes are such as CloudEvents knows.

    Raises:
        PayloadError: one is not, with its name.
    """
    for name, value in attributes.items():
        if not isinstance(name, str) or _NAME.fullmatch(name) is None:
            raise PayloadError(
                f"no CloudEvent has an attribute {name!r}: use lower-case letters and digits"
            )
        fault = _value_fault(name, value)
        if fault is not None:
            raise PayloadError(f"the CloudEvents attribute {name!r} {fault}")


def _value_fault(name: str, value: Any) -> str | None:
    text_only = name in _OWN and name != VERSION
    if not isinstance(value, str if text_only else Attribute):
        wanted = "a str" if text_only else "a str, an int or a bool"
        return f"is {wanted}, not a {type(value).__name__}"
    if value == "" and name in _OWN:
        return "is empty"
    if isinstance(value, str) and _NO_TEXT.search(value):
        return "has a character that none may have, such as the end of a line"
    return None


def _as_text(value: Attribute) -> str:
    """Return the string form of a value that CloudEvents §3.1 gives it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _uuid(text: str) -> UUID | None:
    try:
        found = UUID(text)
    except ValueError:
        return None
    return found if str(found) == text.lower() else None


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")

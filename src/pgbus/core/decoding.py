"""From what is stored to an event: any client may write to a queue, so any JSON is read."""

import re
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Final, TypeVar
from uuid import UUID

import msgspec

from pgbus.core.account import text_of
from pgbus.errors import PayloadError
from pgbus.model import envelope
from pgbus.model.envelope import Incoming

_T = TypeVar("_T")


def decode(decoder: "msgspec.json.Decoder[Any]", body: str | bytes | None) -> Any:
    """Decode a body.

    Parameters:
        decoder: of the type that the handler asks for.
        body: JSON; ``None`` where the row holds SQL's NULL.

    Raises:
        PayloadError: it does not fit, with the path of the fault and without any value. Whatever
            goes wrong ends here: malformed text, a wrong type, a check of the type's own, nesting
            beyond the interpreter's recursion limit.
    """
    if body is None:
        raise PayloadError(
            "there is no readable body: it is NULL, or too long for PostgreSQL to show as text"
        )
    try:
        return decoder.decode(body)
    except MemoryError:
        raise
    except RecursionError:
        raise PayloadError("the body is nested too deep to be decoded") from None
    except Exception as error:  # a type's own __post_init__ may raise anything
        raise PayloadError(f"the body does not fit: {_decode_fault(error)}") from None


# What msgspec says without quoting a value.
_QUOTES_NOTHING: Final = re.compile(
    r"Expected `|Object missing required field `|JSON is malformed: |Input data was truncated"
    r"|Number out of range|Integer value out of range|Invalid (?:UUID|RFC3339|ISO8601|base64"
    r"|decimal|epoch|number)\b"
)
_PATH: Final = re.compile(r" - at `[^`]*`(?: in `[^`]*`)?\Z|\Z")


def _decode_fault(error: Exception) -> str:
    if isinstance(error, msgspec.MsgspecError):
        message = text_of(error)  # a type's own check may raise a class of its own
        if _QUOTES_NOTHING.match(message):
            return message
        path = _PATH.search(message)
        where = path[0] if path is not None else ""
        if message.startswith(("Invalid enum value", "Invalid value")):
            return f"a value is not one of those allowed{where}"
        return f"{type(error).__name__}{where}"
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    return type(error).__name__


class _Known(msgspec.Struct, frozen=True, gc=False):
    """The headers that pgbus knows."""

    id: UUID | None = None
    source: str | None = None
    type: str | None = None
    time: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    specversion: str | None = None
    datacontenttype: str | None = None
    topic: str | None = msgspec.field(default=None, name=envelope.TOPIC)
    version: Annotated[int, msgspec.Meta(ge=1)] | None = msgspec.field(
        default=None, name=envelope.VERSION
    )
    correlationid: str | None = None
    causationid: str | None = None
    key: str | None = msgspec.field(default=None, name=envelope.KEY)


class _Kind(msgspec.Struct, frozen=True, gc=False):
    """The topic and the version alone, as they should be."""

    type: str = ""
    topic: str | None = msgspec.field(default=None, name=envelope.TOPIC)
    version: int = msgspec.field(default=0, name=envelope.VERSION)


class _Group(msgspec.Struct, frozen=True, gc=False):
    """The group alone, whatever it is."""

    value: msgspec.Raw = msgspec.field(default=msgspec.Raw(b"null"), name=envelope.KEY)


class _Downcasts(msgspec.Struct, frozen=True, gc=False):
    """The older forms alone."""

    forms: dict[int, msgspec.Raw] = msgspec.field(default_factory=dict, name=envelope.DOWNCASTS)


class _Only(_Known, frozen=True, forbid_unknown_fields=True, gc=False):
    """The headers of an event of pgbus whose publisher added none: decoded in one step."""


_ONLY: Final = msgspec.json.Decoder(_Only)
_KIND: Final = msgspec.json.Decoder(_Kind)
_KNOWN: Final = msgspec.json.Decoder(_Known)
_GROUP: Final = msgspec.json.Decoder(_Group)
_DOWNCASTS: Final = msgspec.json.Decoder(_Downcasts)
_OBJECT: Final = msgspec.json.Decoder(dict[str, Any])
_FIELDS: Final = {field.encode_name: field.type for field in msgspec.structs.fields(_Known)}


def read_headers(raw: str | bytes | None) -> Incoming:
    """Read the headers of a message, whoever wrote them; never raises for what they hold.

    What is missing, or not of its type, becomes ``None``. A foreign message that has no
    ``pgbus-topic`` has the topic its CloudEvents ``type`` names, if any. ``headers`` of the result
    keeps what is neither pgbus's nor CloudEvents'.
    """
    if raw is None:
        return _NOTHING
    known: _Known
    own: dict[str, Any] = {}
    try:
        known = _ONLY.decode(raw)
    except Exception:  # foreign, or with headers of the publisher's
        known, own = _read_mixed(raw)
    return Incoming(
        known.id,
        known.type if known.topic is None else known.topic,
        known.version,
        known.key,
        known.correlationid,
        known.causationid,
        known.time,
        own,
        known.source,
    )


def read_kind(raw: str | bytes) -> tuple[str, int]:
    """Read the topic and the version of a message, where :func:`read_headers` finds them too.

    Raises:
        msgspec.MsgspecError: one of them is not of its type, or ``raw`` is no object.
    """
    kind = _KIND.decode(raw)
    return kind.type if kind.topic is None else kind.topic, kind.version


def read_downcasts(raw: str | bytes | None) -> dict[int, bytes]:
    """Return the bodies of older versions that a publisher sent along, by version."""
    found = None if raw is None else _try(_DOWNCASTS.decode, raw)
    return {} if found is None else {one: bytes(body) for one, body in found.forms.items()}


def _read_mixed(raw: str | bytes) -> tuple[_Known, dict[str, Any]]:
    found = _try(_OBJECT.decode, raw)
    known = _try(_KNOWN.decode, raw)
    if found is None:
        # Not an object; or one that holds, beside what pgbus knows, what Python cannot.
        return known or _Known(), {}
    own = {
        name: value
        for name, value in found.items()
        if name not in _FIELDS and not name.startswith(envelope.RESERVED_PREFIX)
    }
    if known is None:  # one of them has another type, and is none
        values = {
            name: _try(msgspec.convert, value, _FIELDS[name])
            for name, value in found.items()
            if name in _FIELDS
        }
        group = _try(_GROUP.decode, raw)
        if group is not None and values.get(envelope.KEY) is None:
            values[envelope.KEY] = _group_text(group.value)
        known = msgspec.convert(values, _Known)
    return known, own


def _group_text(value: msgspec.Raw) -> str | None:
    """Return the group as the database orders by it: what is no string by its JSON text."""
    text = bytes(value).decode()
    return None if text == "null" else text


def _try(read: Callable[..., _T], *arguments: Any) -> _T | None:
    try:
        return read(*arguments)
    except Exception:  # whatever it is, foreign headers raise nothing
        return None


_NOTHING: Final = Incoming(None, None, None, None, None, None, None, {})

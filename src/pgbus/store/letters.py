"""Dead letters: reading them, putting them back, dropping them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from pgbus.core.decoding import read_headers
from pgbus.errors import ConfigurationError
from pgbus.model import envelope
from pgbus.model.status import DeadLetter
from pgbus.store.query import Operation, Query, ask, ask_one, number, truth
from pgbus.store.statements import statement

PAGE = 200


class _End(msgspec.Struct):
    """What is stored of an event's end, in the header ``pgbus-dead``."""

    msg_id: int = 0
    attempts: int = 0
    error_type: str = ""
    error: str = ""
    traceback: str = ""
    first_at: datetime | None = None
    last_at: datetime | None = None
    headers: Any = None


class _Headers(msgspec.Struct):
    dead: _End = msgspec.field(default_factory=_End, name=envelope.DEAD)


_HEADERS = msgspec.json.Decoder(_Headers)


def page(name: str, after: int) -> Operation[list[DeadLetter]]:
    """Return up to 200 dead letters of a subscription behind number ``after``, oldest first.

    Raises:
        ConfigurationError: there is no such subscription.
    """
    yield from _require(name)
    query = Query(statement("letters", "page"), (name, after, PAGE), _letter)
    return (yield from ask(query))


def _letter(
    number: int, enqueued_at: datetime, body: str | None, headers: str | None
) -> DeadLetter:
    try:
        end = _HEADERS.decode(headers or "{}").dead
    except msgspec.MsgspecError:
        end = _End()  # somebody else's message in the queue
    incoming = read_headers(headers)
    return DeadLetter(
        id=incoming.id,
        number=number,
        topic=incoming.topic,
        key=incoming.key,
        body=_body(body),
        headers=dict(end.headers) if isinstance(end.headers, dict) else {},
        error=f"{end.error_type}: {end.error}" if end.error else end.error_type,
        error_type=end.error_type,
        traceback=end.traceback,
        attempts=end.attempts,
        first_at=end.first_at or enqueued_at,
        last_at=end.last_at or enqueued_at,
    )


def _body(body: str | None) -> Any:
    if body is None:
        return None
    try:
        return msgspec.json.decode(body)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return body  # it may be here for the very reason that nothing can decode it


def redrive(name: str, ids: Sequence[UUID] | None, limit: int | None) -> Operation[int]:
    """Put dead letters back at their old place within their key; return how many.

    Raises:
        ConfigurationError: there is no such subscription.
    """
    yield from _require(name)
    query = Query(statement("letters", "redrive"), (name, _texts(ids), limit), number)
    return (yield from ask_one(query))


def drop(name: str, ids: Sequence[UUID] | None) -> Operation[int]:
    """Drop dead letters for good; return how many.

    Raises:
        ConfigurationError: there is no such subscription.
    """
    yield from _require(name)
    return (yield from ask_one(Query(statement("letters", "drop"), (name, _texts(ids)), number)))


def _texts(ids: Sequence[UUID] | None) -> list[str] | None:
    return None if ids is None else [str(one) for one in ids]


def _require(name: str) -> Operation[None]:
    if not (yield from ask_one(Query(statement("letters", "exists"), (name,), truth))):
        raise ConfigurationError(f"there is no subscription {name!r}")

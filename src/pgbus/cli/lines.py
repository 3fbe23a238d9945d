"""JSON lines: reading them as they come, and making an event of each."""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, NamedTuple

import msgspec

from pgbus import Outgoing
from pgbus.errors import PayloadError

BATCH: Final = 500
"""Events in one publish."""
CHUNK: Final = 1 << 20
_MARK: Final = b"\xef\xbb\xbf"  # what some editors begin a file with
_ABSENT: Final = object()


class Line(NamedTuple):
    """A line that is not blank, and its number from 1."""

    number: int
    text: bytes


def batches(stream: BinaryIO) -> Iterator[list[Line]]:
    """Yield what can be read without waiting, in lists of up to 500 lines.

    So a file goes in large batches, and what trickles through a pipe is not held up.
    """
    number = 0
    rest = b""
    ended = False
    while not ended:
        chunk = stream.read1(CHUNK) if isinstance(stream, _Buffered) else stream.read(CHUNK)
        ended = not chunk
        *complete, rest = (rest + chunk).split(b"\n")
        if ended:
            complete.append(rest)
        lines = []
        for text in complete:
            number += 1
            bare = (text.removeprefix(_MARK) if number == 1 else text).strip()
            if bare:
                lines.append(Line(number, bare))
        for start in range(0, len(lines), BATCH):
            yield lines[start : start + BATCH]


_Buffered = (io.BufferedReader, io.BytesIO)


@dataclass(frozen=True, slots=True)
class Template:
    """What turns a body into an event; the fields' names may be dotted paths into the body."""

    topic: str | None
    topic_field: str | None
    key: str | None
    key_field: str | None
    headers: Mapping[str, str]
    delay: float | None

    def event(self, body: bytes) -> Outgoing:
        """Return the event of a body, which is sent as it was written.

        Raises:
            PayloadError: the body is no JSON, or its topic or key cannot be told.
        """
        topic, key = self.topic, self.key
        if self.topic_field is not None or self.key_field is not None:
            try:
                decoded = msgspec.json.decode(body)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise PayloadError(f"no JSON that can be read: {_fault(error)}") from None
            if self.topic_field is not None:
                topic = self._find_topic(decoded, self.topic_field)
            if self.key_field is not None:
                key = _find_key(decoded, self.key_field)
        assert topic is not None
        payload = msgspec.Raw(body)
        return Outgoing(topic, payload, key=key, headers=self.headers or None, delay=self.delay)

    def _find_topic(self, body: Any, path: str) -> str:
        found = _look_up(body, path)
        if isinstance(found, str):
            return found
        if found is not _ABSENT and found is not None:
            raise PayloadError(f"field {path!r} is no text, so it cannot be the topic")
        if self.topic is None:
            raise PayloadError(f"it has no field {path!r} for the topic")
        return self.topic


def _find_key(body: Any, path: str) -> str | None:
    found = _look_up(body, path)
    if found is _ABSENT:
        raise PayloadError(f"it has no field {path!r} for the key (null means: no key)")
    if found is None or isinstance(found, str):
        return found
    if isinstance(found, bool | dict | list):
        raise PayloadError(f"field {path!r} is neither text nor a number, so it cannot be the key")
    return str(found)


def _look_up(body: Any, path: str) -> Any:
    """Return the value of a field, or of a dotted path, or ``_ABSENT``."""
    if not isinstance(body, dict):
        return _ABSENT
    if path in body:
        return body[path]
    head, dot, rest = path.partition(".")
    if not dot or head not in body:
        return _ABSENT
    return _look_up(body[head], rest)


def _fault(error: Exception) -> str:
    """Return what is wrong; msgspec names places, and never quotes values."""
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)

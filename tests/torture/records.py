"""The log of a run: records that many processes append to one file, each with a single write.

Times are nanoseconds of the monotonic clock, which all processes of one machine share.
"""

import os
import time
from pathlib import Path
from typing import Literal, NamedTuple, Self

import msgspec

Fate = Literal["committed", "rolled back", "unknown"]


class Message(NamedTuple):
    """One event as its publisher meant it; ``uid`` is in its body and is its identity."""

    uid: str
    key: str | None
    topic: str
    how: str


class Intent(msgspec.Struct, tag="intent", array_like=True, frozen=True):
    """Somebody is about to publish these, all or none, in this order."""

    batch: str
    at: int
    messages: list[Message]


class Outcome(msgspec.Struct, tag="outcome", array_like=True, frozen=True):
    """What the publisher was told in the end; without one it is unknown."""

    batch: str
    at: int
    fate: Fate


class Begin(msgspec.Struct, tag="begin", array_like=True, frozen=True):
    """A handler was called."""

    subscription: str
    uid: str
    key: str | None
    attempt: int
    pid: int
    at: int


class End(msgspec.Struct, tag="end", array_like=True, frozen=True):
    """A handler is about to return."""

    subscription: str
    uid: str
    pid: int
    at: int


class Told(msgspec.Struct, tag="told", array_like=True, frozen=True):
    """What ``bus.on_error`` was told."""

    kind: str
    subscription: str
    pid: int
    at: int


class Fault(msgspec.Struct, tag="fault", array_like=True, frozen=True):
    """A fault, from when to when, and the worker processes that it struck."""

    kind: str
    at: int
    until: int
    pids: list[int]


class Declared(msgspec.Struct, tag="declared", array_like=True, frozen=True):
    """A subscription was bound to topics, between ``began`` and ``at``."""

    subscription: str
    topics: list[str]
    transactional: bool
    began: int
    at: int


class Broken(msgspec.Struct, tag="broken", array_like=True, frozen=True):
    """A process of ours ended with an error of its own."""

    role: str
    pid: int
    code: int


Record = Intent | Outcome | Begin | End | Told | Fault | Declared | Broken


class Log:
    """Appends to a file that many processes share."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._encode = msgspec.json.Encoder().encode

    def write(self, record: Record) -> None:
        # One write: a process that is killed leaves a whole line or none.
        os.write(self._file, self._encode(record) + b"\n")

    def close(self) -> None:
        os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read(path: Path) -> list[Record]:
    decoder = msgspec.json.Decoder(Record)
    with path.open("rb") as lines:
        return [decoder.decode(line) for line in lines]


def now() -> int:
    return time.monotonic_ns()

"""The log of a run: records that many processes append to one file, each with a single write.

Times are nanoseconds of the monotonic clock, which all processes of one machine share.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, Self, TypeVar

import msgspec

T = TypeVar("T")
Fate = Literal["committed", "rolled back", "unknown"]


class Message(NamedTuple):
    """One event as its publisher meant it; ``uid`` is in its body and is its identity.

    It ends in ``@`` and the key, where there is one: see :func:`family`.
    """

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


class Together(msgspec.Struct, tag="together", array_like=True, frozen=True):
    """A handler was called for several events at once."""

    subscription: str
    pid: int
    at: int
    events: int


class Dropping(msgspec.Struct, tag="dropping", array_like=True, frozen=True):
    """Somebody is about to drop the dead letters of these."""

    subscription: str
    uids: list[str]
    at: int


class Over(msgspec.Struct, tag="over", array_like=True, frozen=True):
    """These transactions, which redrove dead letters, have been seen to be committed."""

    xids: list[int]
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
    parks: bool = False
    """Whether a dead letter keeps back the later events of its key."""


class Gone(msgspec.Struct, tag="gone", array_like=True, frozen=True):
    """A process of ours has ended: from now on, another may get its number."""

    pid: int
    at: int


class Broken(msgspec.Struct, tag="broken", array_like=True, frozen=True):
    """A process of ours ended with an error of its own, or did not end when it was asked to."""

    role: str
    pid: int
    code: int | None
    """Its exit code; none where it had to be killed."""


Record = (
    Intent
    | Outcome
    | Begin
    | End
    | Together
    | Dropping
    | Over
    | Told
    | Fault
    | Declared
    | Gone
    | Broken
)


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


class Lines(Generic[T]):
    """What is written line by line in a file, read anew each time that it is gone through."""

    def __init__(self, path: Path, kind: Any) -> None:
        self.path = path
        self._decode = msgspec.json.Decoder(kind).decode

    def __iter__(self) -> Iterator[T]:
        with self.path.open("rb") as lines:
            for line in lines:
                yield self._decode(line)


def read(path: Path) -> Lines[Record]:
    return Lines(path, Record)


def family(uid: str) -> str:
    """What an event has in common with those that it must be judged with: its key.

    Without one, it is alone with what its handlers published about it.
    """
    own, _, key = uid.partition(">")[0].partition("@")
    return key or own


def now() -> int:
    return time.monotonic_ns()

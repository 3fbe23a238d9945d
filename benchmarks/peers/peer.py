"""What a benchmark asks of whatever delivers events: pgbus itself, its peers."""

import importlib
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec

from benchmarks.measure import Missing
from benchmarks.orders import KINDS
from benchmarks.tally import Counter, Job
from pgbus import Event

T = TypeVar("T")

encode = msgspec.json.Encoder().encode
"""Makes an event the JSON that peers store."""


class Traits(NamedTuple):
    """What to know of a contender."""

    name: str
    client: str
    """The Python client that drives it."""
    durable: bool
    """Whether what it confirms is on the disk by then."""
    settings: str
    """What decides about that."""
    order: str
    """What it promises of the order in which events are handled."""


class Peer(Protocol):
    """One contender; every method is called in the process that called :meth:`open`."""

    traits: Traits

    def open(self) -> None:
        """Connect.

        Raises:
            Missing: its client is not installed, or its server does not answer.
        """

    def clear(self, kind: str) -> None:
        """Make its queue for events of a kind, or empty it."""

    def publish_each(self, events: Sequence[Event], callers: int) -> None:
        """Publish one by one, each confirmed before the next, by so many callers at once."""

    def publish_many(self, events: Sequence[Event], size: int) -> None:
        """Publish in batches, each confirmed before the next."""

    def consume(self, job: Job, counter: Counter) -> None:
        """Decode, handle and acknowledge, until the counter says stop."""

    def close(self) -> None:
        """Disconnect."""


def load(module: str) -> Any:
    """Import a peer's client.

    By name: it is an optional extra, which neither this process nor the type checker need have.

    Raises:
        Missing: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise Missing(f"its client is not installed (pip install -e '.[bench]'): {error}") from None


def decoder(kind: str) -> Callable[[bytes], Event]:
    """Return what makes JSON a typed event."""
    return msgspec.json.Decoder(KINDS[kind]).decode


def converter(kind: str) -> Callable[[Any], Event]:
    """Return what makes an event of what a client has decoded itself."""
    type_ = KINDS[kind]
    return lambda found: msgspec.convert(found, type_)


def share(events: Sequence[T], callers: int, work: Callable[[Sequence[T]], None]) -> None:
    """Let so many threads work on their share of the events."""
    if callers == 1:
        work(events)
        return
    faults: list[Exception] = []

    def one(part: Sequence[T]) -> None:
        try:
            work(part)
        except Exception as error:  # raised in the caller's thread below
            faults.append(error)

    threads = [
        threading.Thread(target=one, args=(events[place::callers],)) for place in range(callers)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        raise faults[0]

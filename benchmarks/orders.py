"""The events that everything is measured with: the 350-byte order, and real data where it lies.

Orders are made so that their JSON has the same length whatever their number and key. Their keys
take turns, as those of many customers at once do: the events of one key lie far apart.
"""

import gzip
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from pgbus import Event

T = TypeVar("T")

SIZE = 350
"""Bytes of an order's JSON."""
REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
_FIRST = 1_000_000_000


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One line of an order."""

    sku: str
    quantity: int
    price: str


class Order(Event, topic="orders.placed", key="customer"):
    """An order, ordered per customer."""

    number: int
    customer: str
    sent: float
    """When it was published, on the clock that all processes share."""
    email: str
    currency: str
    total: str
    lines: tuple[Line, ...]
    note: str


class LooseOrder(Order, topic="orders.loose", key=None):
    """The same order, without a key."""


class FileChange(Event, topic="repo.changed", key="file"):
    """A file's change in the public history of a repository."""

    number: int
    """Counts the changes of one file from 1."""
    file: str
    change: str
    sha: str
    at: str
    lines_added: int | None
    lines_deleted: int | None
    subject: str


class Webhook(Event, topic="github.webhook"):
    """A webhook's payload of 1 to 24 KB."""

    number: int
    event: str
    payload: dict[str, Any]


KINDS: dict[str, type[Event]] = {
    "order": Order,
    "loose": LooseOrder,
    "change": FileChange,
    "webhook": Webhook,
}
_LINES = (
    Line(sku="TEA-GREEN-100", quantity=2, price="7.90"),
    Line(sku="CUP-WHITE-250", quantity=6, price="4.25"),
)
_BARE = Order(
    number=_FIRST,
    customer="c-00000000",
    sent=0.5,
    email="customer@example.org",
    currency="EUR",
    total="41.30",
    lines=_LINES,
    note="",
)
_NOTE = ("Please leave the parcel with the neighbours. " * 9)[
    : SIZE - len(msgspec.json.encode(_BARE))
]


def order(number: int, key: int, *, sent: float = 0.5, loose: bool = False) -> Order:
    """Return order ``number`` of customer ``key``."""
    make = LooseOrder if loose else Order
    return make(
        number=_FIRST + number,
        customer=f"c-{key:08d}",
        sent=sent,
        email=_BARE.email,
        currency=_BARE.currency,
        total=_BARE.total,
        lines=_LINES,
        note=_NOTE,
    )


def orders(count: int, keys: int | None, *, first: int = 0) -> list[Event]:
    """Return orders of so many customers in turn; ``None`` makes them unkeyed."""
    numbers = range(first, first + count)
    if keys is None:
        return [order(number, number, loose=True) for number in numbers]
    return [order(number, number % keys) for number in numbers]


def position(number: int) -> int:
    """Return what was given to :func:`order` as its number."""
    return number - _FIRST


def batches(events: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Cut events, or rows, into batches."""
    for start in range(0, len(events), size):
        yield events[start : start + size]


def file_changes() -> list[Event] | None:
    """Return the real file changes, or ``None`` where they do not lie beside the checkout."""
    lines = _real("repo-changes.jsonl.gz")
    return None if lines is None else [_change(line) for line in lines]


def webhooks() -> list[Event] | None:
    """Return the real webhook payloads ten times over, or ``None`` where they are not there."""
    lines = _real("github-webhooks.jsonl.gz")
    return None if lines is None else [_webhook(*one) for one in enumerate(10 * lines)]


def _real(name: str) -> list[dict[str, Any]] | None:
    path = REAL_DATA / name
    if not path.is_file():
        return None
    with gzip.open(path) as lines:
        return [msgspec.json.decode(line) for line in lines]


def _change(found: dict[str, Any]) -> Event:
    return FileChange(
        number=found["n"],
        file=f"{found['repo']}/{found['path']}",
        change=found["change"],
        sha=found["sha"],
        at=found["at"],
        lines_added=found["lines_added"],
        lines_deleted=found["lines_deleted"],
        subject=found["subject"],
    )


def _webhook(place: int, found: dict[str, Any]) -> Event:
    return Webhook(number=place, event=found["event"], payload=found["payload"])

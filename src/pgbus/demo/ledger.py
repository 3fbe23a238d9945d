"""What the handlers saw: the verdict rests on this, and not on what the bus says of itself."""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from pgbus.demo.events import OrderEvent

Mark = tuple[str, int]
"""An event: its order and its step."""


class Page:
    """The ledger of one subscription. Handlers write under its lock; the view reads without.

    Attributes:
        delivered: each order's steps, in the order of their first delivery.
        handled: each order's steps, in the order in which they were first handled.
        handlings: how often a handler finished.
        failed: how often each event failed, for those that did.
        overlaps: how often an order was in two hands at once.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.delivered: dict[str, list[int]] = {}
        self.handled: dict[str, list[int]] = {}
        self.handlings = 0
        self.failed: dict[Mark, int] = {}
        self.overlaps = 0
        self._in_hand: set[str] = set()
        self._lock = threading.Lock()

    @property
    def failures(self) -> int:
        """How many attempts failed."""
        return sum(self.failed.copy().values())

    @property
    def marks(self) -> set[Mark]:
        """The events that were handled."""
        return {(order, step) for order, steps in self.handled.items() for step in steps}

    @contextmanager
    def delivery(self, event: OrderEvent) -> Iterator[int]:
        """Note a delivery and how it ends; yields how often the event failed before."""
        order, mark = event.order_id, (event.order_id, event.step)
        with self._lock:
            self.overlaps += order in self._in_hand
            self._in_hand.add(order)
            steps = self.delivered.setdefault(order, [])
            if event.step not in steps:
                steps.append(event.step)
            before = self.failed.get(mark, 0)
        try:
            yield before
        except BaseException:
            with self._lock:
                self._in_hand.discard(order)
                self.failed[mark] = before + 1
            raise
        with self._lock:
            self._in_hand.discard(order)
            self.handlings += 1
            steps = self.handled.setdefault(order, [])
            if event.step not in steps:
                steps.append(event.step)


class Item(NamedTuple):
    """A remark: whose, what, and its colour."""

    who: str
    text: str
    style: str


class News:
    """Remarks for whoever watches, newest last. Anybody adds, the view reads.

    Attributes:
        headlines: what one would not want to miss; few.
        rest: the newest of the many others.
    """

    def __init__(self) -> None:
        self.headlines: deque[Item] = deque(maxlen=100)
        self.rest: deque[Item] = deque(maxlen=20)

    def add(self, who: str, text: str, style: str) -> None:
        """Add a remark of the many."""
        self.rest.append(Item(who, text, style))

    def headline(self, who: str, text: str, style: str) -> None:
        """Add a remark that matters."""
        self.headlines.append(Item(who, text, style))

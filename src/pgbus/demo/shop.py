"""The shop: invents orders, and publishes their events from several tills at once."""

import random
import threading
import time
from collections.abc import Sequence
from decimal import Decimal

from pgbus import Bus, Event, PgbusError, Receipt
from pgbus.demo.events import (
    AnyOrderEvent,
    OrderCancelled,
    OrderCreated,
    OrderPaid,
    OrderShipped,
)

TILLS = 3
OPEN_ORDERS = 60
"""How many orders are under way at the same time: their events interleave."""
LARGEST_BATCH = 12
PACE = 0.0015
"""Seconds between two events, at most …"""
LONGEST = 4.5
"""… and how long the shop is open at most, where the machine keeps up."""
UNKNOWN_CURRENCY = "GALLEONS"

_CUSTOMERS = ("Ada", "Edsger", "Grace", "Barbara", "Donald", "Radia", "Tony", "Leslie")
_CARRIERS = ("bicycle", "van", "train", "drone")
_REASONS = ("found it cheaper", "ordered twice", "too slow")


def invent(events: int, seed: int) -> list[AnyOrderEvent]:
    """Return what will happen, in order: ``events`` events, one of them poisoned.

    The poisoned one is a payment that billing cannot understand; later events of its order follow.
    """
    random_ = random.Random(seed)  # noqa: S311 - to be repeatable, not secret
    story: list[AnyOrderEvent] = []
    under_way: list[list[AnyOrderEvent]] = []
    number = 0
    poisoned: list[AnyOrderEvent] | None = None
    while len(story) < events:
        if len(under_way) < min(OPEN_ORDERS, events // 10):
            number += 1
            order = _order(random_, f"{number:05}")
            # Early and not at once, so that later events can be seen to wait behind it.
            if poisoned is None and number > events // 40 and len(order) == 3:
                order = poisoned = _poisoned(order)
            under_way.append(order)
        order = random_.choice(under_way)
        if poisoned and len(story) > events // 3:
            order = poisoned  # it must not be cut off by the end of a short story
        story.append(order.pop(0))
        if not order:
            under_way.remove(order)
    return story


def _order(random_: random.Random, order_id: str) -> list[AnyOrderEvent]:
    total = Decimal(random_.randrange(500, 50_000)) / 100
    customer = random_.choice(_CUSTOMERS)
    happened: list[AnyOrderEvent] = [
        OrderCreated(order_id=order_id, step=1, customer=customer, total=total)
    ]
    fate = random_.random()
    if fate < 0.85:
        happened.append(OrderPaid(order_id=order_id, step=2, amount=total, currency="EUR"))
    step = len(happened) + 1
    if fate < 0.7:
        carrier = random_.choice(_CARRIERS)
        happened.append(OrderShipped(order_id=order_id, step=step, carrier=carrier))
    else:
        reason = random_.choice(_REASONS)
        happened.append(OrderCancelled(order_id=order_id, step=step, reason=reason))
    return happened


def _poisoned(order: list[AnyOrderEvent]) -> list[AnyOrderEvent]:
    return [
        OrderPaid(
            order_id=event.order_id,
            step=event.step,
            amount=event.amount,
            currency=UNKNOWN_CURRENCY,
        )
        if isinstance(event, OrderPaid)
        else event
        for event in order
    ]


class Shop:
    """Publishes a story from several threads; an order's events all from the same one.

    Attributes:
        receipts: what the bus said; the tills write, the verdict reads after :meth:`join`.
        published: how many events are published so far.
        error: what ended a till before its time.
    """

    def __init__(self, bus: Bus, story: Sequence[AnyOrderEvent], stop: threading.Event) -> None:
        self._bus = bus
        self._stop = stop
        self._pace = min(PACE, LONGEST / max(1, len(story)))
        self._lock = threading.Lock()
        self.receipts: list[Receipt] = []
        self.error: PgbusError | None = None
        shares: list[list[Event]] = [[] for _ in range(TILLS)]
        for event in story:
            shares[int(event.order_id) % TILLS].append(event)
        self._tills = [
            threading.Thread(target=self._sell, args=(share, place), name=f"till-{place}")
            for place, share in enumerate(shares)
        ]

    @property
    def published(self) -> int:
        """How many events are published."""
        return len(self.receipts)

    @property
    def open(self) -> bool:
        """Whether a till still publishes."""
        return any(till.is_alive() for till in self._tills)

    def start(self) -> None:
        """Open the tills."""
        for till in self._tills:
            till.start()

    def join(self) -> None:
        """Wait until every till has closed."""
        for till in self._tills:
            till.join()

    def _sell(self, share: list[Event], place: int) -> None:
        random_ = random.Random(place)  # noqa: S311 - see invent
        began = time.monotonic()
        done = 0
        while done < len(share) and not self._stop.is_set():
            batch = share[done : done + random_.randint(1, LARGEST_BATCH)]
            try:
                receipts = self._bus.publish_many(batch)
            except PgbusError as error:
                self.error = error
                return
            done += len(batch)
            with self._lock:
                self.receipts.extend(receipts)
            ahead = done * self._pace * TILLS - (time.monotonic() - began)
            if ahead > 0:
                self._stop.wait(ahead)

"""The staff: three subscriptions, and how their handlers fail."""

import random
import time
from dataclasses import dataclass

from pgbus import Bus, Incident, Retry, RetryAfter
from pgbus.demo.events import AnyOrderEvent, OrderCancelled, OrderEvent, OrderPaid
from pgbus.demo.ledger import News, Page
from pgbus.demo.shop import UNKNOWN_CURRENCY

BILLING = "demo_billing"
SHIPPING = "demo_shipping"
AUDIT = "demo_audit"
PATTERNS = {
    BILLING: ("demo.orders.*",),
    SHIPPING: ("demo.orders.paid", "demo.orders.cancelled"),
    AUDIT: ("demo.#",),
}
WANTED: dict[str, tuple[type[OrderEvent], ...]] = {
    BILLING: (OrderEvent,),
    SHIPPING: (OrderPaid, OrderCancelled),
    AUDIT: (OrderEvent,),
}
"""What each should get, said without patterns: the verdict does not believe in them."""

CONCURRENCY = 8
WORK = 0.004
"""Seconds that a handler works, on average."""
UNLUCKY = 0.03
"""The part of events that fail once or twice."""


class PaymentTimeout(Exception):
    """The bank did not answer in time."""


class UnknownCurrency(Exception):
    """Nobody has told billing what it is worth."""


@dataclass
class Rates:
    """What billing knows of currencies. The stage repairs it, billing reads it."""

    galleons: bool = False


class Staff:
    """Subscribes the handlers; their pages of the ledger are in ``pages``."""

    def __init__(self, bus: Bus, news: News, seed: int) -> None:
        self.pages = {name: Page(name) for name in PATTERNS}
        self.rates = Rates()
        self._news = news
        self._seed = seed
        self._subscribe(bus)
        bus.on_error(self._tell)

    def _subscribe(self, bus: Bus) -> None:
        patient = Retry(max_attempts=6, initial=0.1, factor=2, maximum=0.5)
        bill = Retry(
            max_attempts=6,
            initial=0.1,
            maximum=0.5,
            on={UnknownCurrency: Retry(max_attempts=3, initial=0.1)},
        )

        @bus.subscribe(
            *PATTERNS[BILLING],
            name=BILLING,
            concurrency=CONCURRENCY,
            retry=bill,
            on_exhausted="park",
        )
        def bill_order(event: AnyOrderEvent) -> None:
            with self.pages[BILLING].delivery(event) as failed:
                self._work(BILLING, event)
                self._convert(event)
                if failed < self._failures_ahead(BILLING, event):
                    raise PaymentTimeout("the bank did not answer")

        @bus.subscribe(*PATTERNS[SHIPPING], name=SHIPPING, concurrency=CONCURRENCY, retry=patient)
        def ship_order(event: OrderPaid | OrderCancelled) -> None:
            with self.pages[SHIPPING].delivery(event) as failed:
                self._work(SHIPPING, event)
                if failed < self._failures_ahead(SHIPPING, event):
                    if failed:
                        raise RetryAfter(0.2)
                    raise ConnectionError("the carrier hung up")

        @bus.subscribe(*PATTERNS[AUDIT], name=AUDIT, concurrency=CONCURRENCY, retry=patient)
        def write_down(event: AnyOrderEvent) -> None:
            with self.pages[AUDIT].delivery(event):
                self._work(AUDIT, event)

    def _convert(self, event: OrderEvent) -> None:
        paid_in = event.currency if isinstance(event, OrderPaid) else None
        if paid_in == UNKNOWN_CURRENCY and not self.rates.galleons:
            raise UnknownCurrency(paid_in)

    def _chance(self, who: str, event: OrderEvent) -> random.Random:
        """Return the event's own dice: the same in every run with this seed."""
        return random.Random(f"{self._seed} {who} {event.order_id} {event.step}")  # noqa: S311

    def _failures_ahead(self, who: str, event: OrderEvent) -> int:
        dice = self._chance(who, event)
        return dice.randint(1, 2) if dice.random() < UNLUCKY else 0

    def _work(self, who: str, event: OrderEvent) -> None:
        time.sleep(self._chance(who, event).uniform(0, 2 * WORK))

    def _tell(self, incident: Incident) -> None:
        context = incident.context
        who = context.subscription.removeprefix("demo_")
        what = f"{type(incident.error).__name__}: {incident.error}"
        if incident.kind == "failure":
            text = f"order {context.key}: {what} (attempt {context.attempt})"
            self._news.add(who, text, "yellow")
        elif incident.kind == "dead_letter":
            text = f"order {context.key}: {what}: a dead letter, later events wait behind it"
            self._news.headline(who, text, "bold red")
        else:
            self._news.headline(who, f"order {context.key}: the lease was lost", "red")

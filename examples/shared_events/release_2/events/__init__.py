"""What the services of the shop tell each other, release 2."""

from decimal import Decimal
from typing import Any

import msgspec

from pgbus import Event, downcast, upcast


class Price(msgspec.Struct, frozen=True):
    """New in this release: what was in euros without saying so."""

    amount: Decimal
    currency: str


class OrderPlaced(Event, topic="orders.placed", version=2, key="order_id"):
    """Somebody ordered something."""

    order_id: str
    price: Price


@upcast(OrderPlaced, from_version=1)
def add_currency(old: dict[str, Any]) -> dict[str, Any]:
    """Let new subscribers read what an old publisher sends, or sent a month ago."""
    return {
        "order_id": old["order_id"],
        "price": {"amount": old["total"], "currency": "EUR"},
    }


@downcast(OrderPlaced, to_version=1)
def drop_currency(new: dict[str, Any]) -> dict[str, Any]:
    """Let old subscribers read what a new publisher sends; to be removed with the last of them."""
    return {"order_id": new["order_id"], "total": new["price"]["amount"]}


class OrderCancelled(Event, topic="orders.cancelled", version=2, key="order_id"):
    """Somebody wants it no more.

    It needs no casts: old subscribers do not miss the new field, and new ones have its default.
    """

    order_id: str
    reason: str
    refund: Decimal | None = None

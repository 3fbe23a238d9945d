"""What the services of the shop tell each other, release 1."""

from decimal import Decimal

from pgbus import Event


class OrderPlaced(Event, topic="orders.placed", key="order_id"):
    """Somebody ordered something."""

    order_id: str
    total: Decimal


class OrderCancelled(Event, topic="orders.cancelled", key="order_id"):
    """Somebody wants it no more."""

    order_id: str
    reason: str

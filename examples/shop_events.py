"""What the services of the shop tell each other: the one module that they share."""

from decimal import Decimal

from pgbus import Event


class OrderPlaced(Event, topic="orders.placed", key="order_id"):
    """Somebody ordered something, and it is to be shipped."""

    order_id: str
    item: str
    total: Decimal


class OrderCancelled(Event, topic="orders.cancelled", key="order_id"):
    """Somebody wants it no more; it may have been shipped."""

    order_id: str
    reason: str

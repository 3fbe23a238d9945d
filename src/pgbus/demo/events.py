"""What happens in the shop."""

from decimal import Decimal

from pgbus import Event


class OrderEvent(Event, key="order_id"):
    """Something happened to an order; its events stay in order."""

    order_id: str
    step: int
    """Counts the order's events from 1: what the verdict checks."""


class OrderCreated(OrderEvent, topic="demo.orders.created"):
    """A customer ordered."""

    customer: str
    total: Decimal


class OrderPaid(OrderEvent, topic="demo.orders.paid"):
    """The payment came in."""

    amount: Decimal
    currency: str


class OrderShipped(OrderEvent, topic="demo.orders.shipped"):
    """The parcel left."""

    carrier: str


class OrderCancelled(OrderEvent, topic="demo.orders.cancelled"):
    """The customer changed their mind."""

    reason: str


AnyOrderEvent = OrderCreated | OrderPaid | OrderShipped | OrderCancelled

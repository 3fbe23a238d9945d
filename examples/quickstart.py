"""The smallest bus: one type of event, one handler.

Run it with a PostgreSQL of your own, or with the embedded one::

    PGBUS_DSN=postgresql://… python -m examples.quickstart
    python -m examples.quickstart
"""

from decimal import Decimal

from pgbus import Bus, Event


class OrderCreated(Event, topic="orders.created", key="order_id"):
    """An order came in."""

    order_id: str
    total: Decimal


bus = Bus()
bus.install()


@bus.subscribe("orders.*", name="quickstart")
def on_order(event: OrderCreated) -> None:
    """Write the bill."""
    print(f"order {event.order_id}: {event.total}")


with bus, bus.running():
    bus.publish(OrderCreated(order_id="17", total=Decimal("42.50")))
    bus.wait_idle()

"""Writes a bill for each order, and takes it back if the order is cancelled.

It names the topics that it has types for. With ``orders.*`` it would get whatever else the
publisher may begin to tell.
"""

from typing import Any

import psycopg

from examples.shared_events.release_1.events import OrderCancelled, OrderPlaced
from pgbus import Bus

bus = Bus(service="billing", service_version="1.0")


@bus.subscribe("orders.placed", "orders.cancelled", name="billing", concurrency=2)
def on_order(event: OrderPlaced | OrderCancelled, connection: psycopg.Connection[Any]) -> None:
    """Write, or take back: once for each event, since the bill commits with the acknowledgement."""
    match event:
        case OrderPlaced():
            connection.execute(
                "insert into shop.bills values (%s, %s, 'EUR', false, 1)",
                (event.order_id, event.total),
            )
        case OrderCancelled():
            taken = connection.execute(
                "update shop.bills set cancelled = true where order_id = %s", (event.order_id,)
            )
            if taken.rowcount != 1:
                raise LookupError(f"order {event.order_id} has no bill")


if __name__ == "__main__":
    with bus:
        bus.run()

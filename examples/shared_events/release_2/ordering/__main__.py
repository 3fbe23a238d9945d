"""Takes orders until it gets SIGTERM.

An order and its event are stored together. Every third order is cancelled.
"""

import signal
import threading
from decimal import Decimal
from uuid import uuid4

import psycopg

from examples.shared_events.release_2.events import OrderCancelled, OrderPlaced, Price
from pgbus import Bus

PAUSE = 0.005
"""Seconds between two orders."""


stopped = threading.Event()


def stop(*_: object) -> None:
    """Take no more orders."""
    stopped.set()


def main() -> None:
    """Take orders."""
    signal.signal(signal.SIGTERM, stop)
    with (
        Bus(service="ordering", service_version="2.0") as bus,
        psycopg.connect(bus.dsn, autocommit=True) as connection,
    ):
        number = 0
        while not stopped.wait(PAUSE):
            number += 1
            order_id, total = str(uuid4()), Decimal(number) / 4
            with connection.transaction():
                connection.execute(
                    "insert into shop.orders values (%s, %s, 'EUR', %s, 2)",
                    (order_id, total, number % 3 == 0),
                )
                price = Price(amount=total, currency="EUR")
                bus.publish(OrderPlaced(order_id=order_id, price=price), connection=connection)
            if number % 3 == 0:
                bus.publish(
                    OrderCancelled(order_id=order_id, reason="found it cheaper", refund=total)
                )


if __name__ == "__main__":
    main()

"""Takes orders until it gets SIGTERM.

An order and its event are stored together. Every third order is cancelled.
"""

import signal
import threading
from decimal import Decimal
from uuid import uuid4

import psycopg

from examples.shared_events.release_1.events import OrderCancelled, OrderPlaced
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
        Bus(service="ordering", service_version="1.0") as bus,
        psycopg.connect(bus.dsn, autocommit=True) as connection,
    ):
        number = 0
        while not stopped.wait(PAUSE):
            number += 1
            order_id, total = str(uuid4()), Decimal(number) / 4
            with connection.transaction():
                connection.execute(
                    "insert into shop.orders values (%s, %s, 'EUR', %s, 1)",
                    (order_id, total, number % 3 == 0),
                )
                bus.publish(OrderPlaced(order_id=order_id, total=total), connection=connection)
            if number % 3 == 0:
                bus.publish(OrderCancelled(order_id=order_id, reason="found it cheaper"))


if __name__ == "__main__":
    main()

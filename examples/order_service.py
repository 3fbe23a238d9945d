"""A service that takes orders: an order and its event are stored together, or not at all.

Start the consumer first, in another terminal, so that somebody listens::

    python -m examples.order_consumer
    python -m examples.order_service 100

Both use ``$PGBUS_DSN``, or else share the embedded PostgreSQL. Every tenth order is declined after
its event was published, every seventh is sent twice, as by a client that did not see the answer,
and every fifth is cancelled: what the consumer ships is what the table ``orders`` says in the end.
"""

import sys
from collections import Counter
from decimal import Decimal
from uuid import NAMESPACE_URL, uuid5

import psycopg

from examples.shop_events import OrderCancelled, OrderPlaced
from pgbus import Bus

TABLE = """
create table if not exists orders (
    order_id text primary key, item text not null, total numeric not null,
    cancelled boolean not null default false
)
"""


class Declined(Exception):
    """The bank said no."""


def place(bus: Bus, connection: psycopg.Connection, order: OrderPlaced, *, solvent: bool) -> bool:
    """Store an order and its event in one transaction; false where it was there already."""
    with connection.transaction():
        connection.execute(
            "insert into orders (order_id, item, total) values (%s, %s, %s) on conflict do nothing",
            (order.order_id, order.item, order.total),
        )
        # The same order is the same event: published again, it is stored once.
        event_id = uuid5(NAMESPACE_URL, f"https://shop.example/orders/{order.order_id}")
        receipt = bus.publish(order, id=event_id, connection=connection)
        if not solvent:
            raise Declined
    return not receipt.duplicate


def cancel(bus: Bus, connection: psycopg.Connection, order_id: str) -> None:
    """Cancel an order and say so."""
    with connection.transaction():
        connection.execute("update orders set cancelled = true where order_id = %s", (order_id,))
        bus.publish(
            OrderCancelled(order_id=order_id, reason="found it cheaper"), connection=connection
        )


def main() -> None:
    """Take as many orders as the first argument says."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    tally = Counter[str]()
    with Bus(service="orders") as bus:
        bus.install()
        with psycopg.connect(bus.dsn, autocommit=True) as connection:
            connection.execute(TABLE)
            for number in range(1, count + 1):
                order = OrderPlaced(order_id=f"{number}", item="teapot", total=Decimal(number) / 4)
                try:
                    placed = place(bus, connection, order, solvent=number % 10 != 0)
                except Declined:
                    tally["declined"] += 1
                    continue
                tally["placed" if placed else "known"] += 1
                if number % 7 == 0:
                    again = place(bus, connection, order, solvent=True)
                    tally["placed" if again else "repeated"] += 1
                if number % 5 == 0:
                    cancel(bus, connection, order.order_id)
                    tally["cancelled"] += 1
    print(", ".join(f"{count} {what}" for what, count in sorted(tally.items())))


if __name__ == "__main__":
    main()

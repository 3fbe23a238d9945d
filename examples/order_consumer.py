"""A service that ships what was ordered, in a process of its own.

Run it until you have seen enough, as many at a time as you like, and end it with Ctrl-C or
SIGTERM: handlers finish, and what was not begun stays for the next start::

    python -m examples.order_consumer

It uses ``$PGBUS_DSN``, or else the embedded PostgreSQL. See ``order_service.py``.
"""

from typing import Any

import psycopg

from examples.shop_events import OrderCancelled, OrderPlaced
from pgbus import Bus, Context

TABLE = """
create table if not exists shipments (
    order_id text primary key, item text not null, event_id uuid not null,
    recalled boolean not null default false
)
"""

bus = Bus(service="shipping")


@bus.subscribe("orders.*", name="shipping", concurrency=4)
def on_order(
    event: OrderPlaced | OrderCancelled, context: Context, connection: psycopg.Connection[Any]
) -> None:
    """Ship or recall.

    What is written through the connection commits together with the acknowledgement, so that
    nothing is shipped twice; and since both events have the order as their key, an order is never
    recalled before it was shipped.
    """
    match event:
        case OrderPlaced():
            connection.execute(
                "insert into shipments (order_id, item, event_id) values (%s, %s, %s)",
                (event.order_id, event.item, context.id),
            )
        case OrderCancelled():
            recalled = connection.execute(
                "update shipments set recalled = true where order_id = %s", (event.order_id,)
            )
            if recalled.rowcount != 1:
                raise LookupError(f"order {event.order_id} was never shipped")


def main() -> None:
    """Ship until somebody says stop."""
    with bus:
        bus.install()
        with psycopg.connect(bus.dsn) as connection:
            # Two that start at once take turns: "if not exists" alone lets the second one fail.
            connection.execute("select pg_advisory_xact_lock(hashtext('shipments'))")
            connection.execute(TABLE)
        bus.declare()
        print("waiting for orders", flush=True)
        bus.run()
        [status] = bus.status()
    print(f"stopped: {status.ready} orders wait, {status.dead_letters} failed")


if __name__ == "__main__":
    main()

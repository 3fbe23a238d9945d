"""pgbus: an embedded, typed publish/subscribe bus on PostgreSQL.

::

    bus = Bus()

    @bus.subscribe("orders.*", name="billing")
    def on_order(event: OrderCreated) -> None: ...

    bus.publish("orders.created", OrderCreated(order_id="17", total=Decimal(42)))
"""

from pgbus import embedded as _embedded  # hands the embedded server to the bus
from pgbus.core.cloudevents import CloudEvent, from_cloudevent, to_cloudevent
from pgbus.core.evolution import downcast, upcast
from pgbus.errors import (
    ConfigurationError,
    IncompatibleDatabase,
    InvalidName,
    InvalidPattern,
    InvalidTopic,
    LeaseLost,
    PayloadError,
    PayloadTooLarge,
    PgbusError,
    SchemaConflict,
    StoreError,
    Unroutable,
)
from pgbus.model.config import REJECT, Reject, Retry, RetryAfter
from pgbus.model.envelope import Outgoing, Receipt
from pgbus.model.event import Event
from pgbus.model.status import Binding, DeadLetter, SubscriptionStatus
from pgbus.threads.batch import BatchContext
from pgbus.threads.bus import Bus
from pgbus.threads.context import Context, Incident

__all__ = [
    # Events
    "Event",
    "upcast",
    "downcast",
    "Outgoing",
    "Receipt",
    "CloudEvent",
    "to_cloudevent",
    "from_cloudevent",
    # The bus
    "Bus",
    "Context",
    "BatchContext",
    "SubscriptionStatus",
    "DeadLetter",
    "Binding",
    "Incident",
    # Outcomes of handlers
    "Retry",
    "REJECT",
    "Reject",
    "RetryAfter",
    # Errors
    "PgbusError",
    "ConfigurationError",
    "InvalidName",
    "InvalidTopic",
    "InvalidPattern",
    "PayloadError",
    "PayloadTooLarge",
    "Unroutable",
    "LeaseLost",
    "SchemaConflict",
    "IncompatibleDatabase",
    "StoreError",
]

del _embedded

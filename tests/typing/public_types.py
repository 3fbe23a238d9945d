"""What type checkers are to know of the public names; nothing here is ever called.

Checked by the ordinary run of mypy, too. What is to be refused is in ``test_wrong_use``.
"""

import functools
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Generic, Literal, TypeVar, assert_never, assert_type
from uuid import UUID, uuid4

import psycopg
from msgspec import UNSET, Struct, UnsetType, field, structs
from psycopg.rows import DictRow

from pgbus import (
    REJECT,
    BatchContext,
    Bus,
    CloudEvent,
    Context,
    DeadLetter,
    Event,
    Incident,
    Outgoing,
    Receipt,
    Reject,
    Retry,
    RetryAfter,
    StoreError,
    SubscriptionStatus,
    downcast,
    from_cloudevent,
    to_cloudevent,
    upcast,
)

T = TypeVar("T")


class OrderCreated(Event, topic="orders.created", key="order_id"):
    order_id: str
    total: Decimal


class OrderCancelled(Event, topic="orders.cancelled", version=2, key="order_id"):
    order_id: str
    reason: str = "none given"


def events(event: OrderCreated) -> None:
    assert_type(OrderCreated(order_id="17", total=Decimal(1)), OrderCreated)
    assert_type(OrderCancelled(order_id="17").reason, str)
    assert_type(event.total, Decimal)


class Base(Event):
    at: datetime | None = None


class Line(Struct, frozen=True):
    sku: str


class Listed(Base, topic="a.listed", version=2, rename="camel", tag=True, omit_defaults=True):
    """Fields behind others with defaults, options of msgspec, methods."""

    order_id: str
    lines: tuple[Line, ...] = ()
    state: Literal["open", "paid"] = "open"
    note: str | UnsetType = UNSET
    named: int = field(name="other", default=1)

    @property
    def size(self) -> int:
        return len(self.lines)


class Page(Event, Generic[T]):
    items: list[T]


class Names(Page[str], topic="a.names"):
    pass


def event_types(event: Listed | OrderCreated) -> str:
    listed = Listed(order_id="1", lines=(Line("tea"),), named=3)
    assert_type(listed.size, int)
    assert_type(listed.note, str | UnsetType)
    assert_type(structs.replace(listed, order_id="2"), Listed)
    assert_type(Names(items=["a"]).items, list[str])
    match event:
        case Listed(order_id=number):
            return assert_type(number, str)
        case OrderCreated(total=total):
            return str(assert_type(total, Decimal))
    assert_never(event)


def a_bus() -> None:
    assert_type(Bus(), Bus)
    with Bus("postgresql://", service="shop", lease=5, on_unroutable="raise") as bus:
        assert_type(bus, Bus)
        assert_type(bus.dsn, str)
        with bus.running(timeout=1) as running:
            assert_type(running, Bus)
        assert_type(bus.wait_idle(timeout=1.5), bool)
    Bus(dedup_window=timedelta(days=1), prune_bindings=False)


def publish(
    bus: Bus,
    event: OrderCreated,
    connection: psycopg.Connection,
    other: psycopg.Connection[DictRow],
) -> None:
    assert_type(bus.publish(event), Receipt)
    assert_type(bus.publish("orders.created", event), Receipt)
    assert_type(bus.publish("orders.created", {"order_id": "17"}, key="17"), Receipt)
    bus.publish(event, headers={"by": "desk-3"}, id=uuid4())
    bus.publish(event, delay=1.5)
    bus.publish(event, delay=timedelta(days=1))
    bus.publish(event, at=datetime.now(UTC))
    bus.publish(event, connection=connection)
    bus.publish(event, connection=other)


def receipt(one: Receipt) -> None:
    assert_type(one.id, UUID)
    assert_type(one.topic, str)
    assert_type(one.queues, int)
    assert_type(one.duplicate, bool)


def publish_many(bus: Bus, created: OrderCreated, connection: psycopg.Connection) -> None:
    mixed: list[Event | Outgoing] = [
        created,
        Outgoing("orders.noted", {"note": "urgent"}, key="17"),
    ]
    bus.publish_many([created, Outgoing("orders.noted", {"note": "urgent"}, headers={"by": "me"})])
    assert_type(bus.publish_many([created, OrderCancelled(order_id="17")]), list[Receipt])
    assert_type(bus.publish_many(mixed, connection=connection), list[Receipt])
    bus.publish_many(OrderCancelled(order_id=f"{n}") for n in range(3))
    bus.publish_many([created])


def subscribe(bus: Bus) -> None:
    @bus.subscribe("orders.*", "returns.#", name="billing", retry=Retry(), timeout=1)
    def on_order(event: OrderCreated | OrderCancelled, context: Context) -> int:
        return 1

    def called(event: OrderCreated, context: Context) -> None:
        assert_type(on_order(event, context), int)

    @bus.subscribe("orders.*", on_exhausted="park", ordered=False, concurrency=1)
    async def on_later(event: dict[str, Any]) -> str:
        return str(event)

    async def caller() -> None:
        assert_type(await on_later({}), str)

    @bus.subscribe("orders.created")
    def on_created(event: OrderCreated, connection: psycopg.Connection[Any]) -> None: ...

    seen: list[Any] = []
    bus.subscribe("#", name="probe")(seen.append)


def subscribe_as_it_is(bus: Bus, plain: Callable[[OrderCreated, Context], int]) -> None:
    """The decorator returns the function unchanged: what a test calls is what was written."""
    assert_type(
        bus.subscribe("orders.*", name="billing")(plain), Callable[[OrderCreated, Context], int]
    )


def every_signature(bus: Bus) -> None:
    """The event, the context and a connection in any order; whatever has a default."""

    @bus.subscribe("orders.*")
    def alone(event: OrderCreated) -> None: ...

    @bus.subscribe("orders.*")
    def untyped(event: Any) -> None: ...

    @bus.subscribe("orders.*")
    def last(context: Context, event: OrderCreated | dict[str, Any]) -> None: ...

    @bus.subscribe("orders.*")
    def all_three(
        connection: psycopg.Connection[DictRow], context: Context, event: OrderCreated
    ) -> None: ...

    @bus.subscribe("orders.*")
    def with_more(event: OrderCreated, context: Context, limit: int = 3) -> None: ...

    @bus.subscribe("orders.*")
    def by_name(
        event: OrderCreated, *, context: Context, connection: psycopg.Connection[Any]
    ) -> None: ...

    @bus.subscribe("orders.*", batch=10)
    def in_batches(
        events: list[OrderCreated], context: BatchContext, connection: psycopg.Connection[Any]
    ) -> None: ...

    @bus.subscribe("orders.*")
    async def later(event: OrderCreated, context: Context) -> None: ...

    bus.subscribe("orders.*", name="partial")(functools.partial(with_more, limit=5))
    bus.subscribe("orders.*", name="method")(Ledger().book)
    bus.subscribe("orders.*", name="object")(Ledger())


class Ledger:
    def book(self, event: OrderCreated, connection: psycopg.Connection[Any]) -> None: ...

    def __call__(self, event: OrderCreated, context: Context) -> None: ...


def in_a_handler(context: Context, event: OrderCreated) -> None:
    assert_type(context.id, UUID | None)
    assert_type(context.topic, str | None)
    assert_type(context.key, str | None)
    assert_type(context.attempt, int)
    assert_type(context.published_at, datetime)
    assert_type(context.subscription, str)
    assert_type(context.lease_lost, bool)
    assert_type(context.publish(event), UUID)
    assert_type(context.publish("orders.noted", {}, key="17", delay=2), UUID)
    assert_type(context.headers.get("by"), Any | None)
    assert_type(context.correlation_id, str | None)
    assert_type(context.causation_id, str | None)
    assert_type(context.source, str | None)
    assert_type(context.to_cloudevent(event), bytes)
    context.extend(30)


def in_a_batch(contexts: BatchContext) -> None:
    for context in contexts:
        assert_type(context, Context)
    assert_type(contexts.lease_lost, bool)
    contexts.reject(0, "why")
    contexts.retry(1, after=2.5)


def versions() -> None:
    @upcast(OrderCancelled, from_version=1)
    def add_reason(old: dict[str, Any]) -> dict[str, Any]:
        return old | {"reason": "unknown"}

    @downcast(OrderCancelled, to_version=1)
    def drop_reason(new: dict[str, Any]) -> dict[str, Any]:
        return {"order_id": new["order_id"]}

    assert_type(add_reason({}), dict[str, Any])


def cloudevents(event: OrderCreated, text: bytes) -> None:
    assert_type(to_cloudevent(event, source="shop", id=uuid4()), bytes)
    to_cloudevent("a.b", {}, source="shop", id=uuid4(), extensions={"rate": 30, "by": "me"})
    found = from_cloudevent(text, OrderCreated)
    assert_type(found, CloudEvent[OrderCreated])
    assert_type(found.data, OrderCreated)
    assert_type(found.outgoing(), Outgoing)
    assert_type(found.time, datetime | None)
    assert_type(from_cloudevent(text), CloudEvent[Any])
    from_cloudevent(text.decode(), OrderCreated | OrderCancelled)


def outcomes(later: RetryAfter) -> Retry:
    assert_type(later.seconds, float)
    if later.seconds > 60:
        raise Reject("too late")
    return Retry(max_attempts=3, on={ValueError: REJECT, OSError: Retry(initial=0.1)})


def operators(bus: Bus, ids: list[UUID]) -> None:
    assert_type(bus.status(), list[SubscriptionStatus])
    assert_type(bus.status("billing", "shipping")[0].oldest_age, timedelta | None)
    assert_type(bus.dead_letters("billing"), Iterator[DeadLetter])
    for letter in bus.dead_letters("billing"):
        assert_type(letter.id, UUID | None)
        assert_type(letter.error, str)
        assert_type(letter.attempts, int)
    assert_type(bus.redrive("billing"), int)
    assert_type(bus.redrive("billing", ids, limit=5), int)
    assert_type(bus.drop_dead_letters("billing", ids=ids), int)
    bus.drop_subscription("billing", force=True)
    bus.rename_subscription("billing", "invoicing")


def incidents(bus: Bus) -> None:
    @bus.on_error
    def tell(incident: Incident) -> None:
        assert_type(incident.error, BaseException)
        assert_type(incident.context, Context)
        if incident.kind == "failure":
            return

    assert_type(tell, Callable[[Incident], None])


def unsure(error: StoreError) -> bool:
    return assert_type(error.outcome_unknown, bool)

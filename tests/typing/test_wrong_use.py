"""Both type checkers refuse wrong use of the public names, on the line where it is wrong.

Those lines, and no others, say ``# refused``. The codes of errors differ between releases.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.typing.checkers import CHECKERS, Report

WRONG = """
from datetime import timedelta
from typing import Any
import msgspec
import psycopg
from pgbus import Bus, Context, Event, Incident, Outgoing, Retry, RetryAfter, upcast
from pgbus import from_cloudevent, to_cloudevent

class Created(Event, topic="orders.created", key="order_id"):
    order_id: str
    total: int

class Priced(Created, topic="orders.priced"):
    currency: str = "EUR"

Created(order_id=17, total=1)  # refused
Created(order_id="17", total="1")  # refused
Created(order_id="17")  # refused
Created(order_id="17", total=1, colour="red")  # refused
Created("17", 1)  # refused
Priced(order_id="17")  # refused
Priced(order_id="17", total=1, currency=1)  # refused
event = Created(order_id="17", total=1)
event.total = 2  # refused
event.colour  # refused
event.total += 1  # refused
event["total"]  # refused

class Line(msgspec.Struct, frozen=True):
    sku: str

class Listed(Event, topic="orders.listed"):
    lines: list[Line] = []
    count: int = "none"  # refused
    named: int = msgspec.field(name="other", default=1)

Listed(lines=["tea"])  # refused
Listed(lines=[Line(sku=1)])  # refused
Listed(other=1)  # refused
Listed().lines[0].sku = "tea"  # refused

bus = Bus("", lease="long")  # refused
Bus(on_unroutable="complain")  # refused
Bus("", "shop")  # refused
Bus(schema_check="maybe")  # refused

bus.publish(17)  # refused
bus.publish(event, key=17)  # refused
bus.publish(event, headers={"tries": 1})  # refused
bus.publish(event, delay="1 s")  # refused
bus.publish(event, at=timedelta(1))  # refused
bus.publish(event, id="17")  # refused
bus.publish(event, connection="db")  # refused
bus.publish_many(event)  # refused
bus.publish_many(["orders.created"])  # refused
Outgoing(payload={})  # refused
bus.publish(event).queue  # refused

bus.subscribe(["orders.*"], name="billing")  # refused
bus.subscribe("orders.*", retry=5)  # refused
bus.subscribe("orders.*", timeout=timedelta(1))  # refused
bus.subscribe("orders.*", on_exhausted="drop")  # refused
bus.subscribe("orders.*", batch=True, name=17)  # refused

@bus.subscribe("orders.*", name="billing")
def on_order(event: Created, context: Context) -> None:
    context.publish(17)  # refused
    context.attempt.upper()  # refused
    context.to_cloudevent()  # refused

on_order("17")  # refused

@bus.subscribe("orders.*")  # refused
def takes_nothing() -> None: ...

@bus.subscribe("orders.*")  # refused
def takes_two_events(one: Created, other: Priced) -> None: ...

@bus.subscribe("orders.*")  # refused
def takes_what_nobody_gives(event: Created, retries: int) -> None: ...

@bus.subscribe("orders.*")  # refused
def takes_what_nobody_gives_by_name(event: Created, *, retries: int) -> None: ...

@bus.subscribe("orders.*")  # refused
async def takes_another_connection(
    event: Created, connection: psycopg.AsyncConnection[Any]
) -> None: ...

@bus.subscribe("orders.*")  # refused
def takes_two_contexts(event: Created, context: Context, other: Context) -> None: ...

@bus.subscribe("orders.*")  # refused
def takes_two_connections(
    event: Created, one: psycopg.Connection[Any], other: psycopg.Connection[Any]
) -> None: ...

@bus.subscribe("orders.*")  # refused
def takes_an_incident(event: Created, context: Incident) -> None: ...

class Ledger:
    def book(self, event: Created) -> None: ...

bus.subscribe("orders.*")(Ledger.book)  # refused
bus.subscribe("orders.*")("on_order")  # refused

@bus.on_error  # refused
def tells(event: Created) -> None: ...

@upcast(Created, from_version=1)  # refused
def takes_no_body() -> dict[str, Any]:
    return {}

@upcast(Line, from_version=1)  # refused
def is_of_no_event(old: dict[str, Any]) -> dict[str, Any]:
    return old

@upcast(Created, from_version=1)  # refused
def returns_no_body(old: dict[str, Any]) -> Created:
    return event

Retry(5)  # refused
Retry(on={"ValueError": 1})  # refused
RetryAfter(timedelta(1))  # refused

to_cloudevent(event, source="shop", id="17")  # refused
to_cloudevent(event)  # refused
from_cloudevent(b"", Created).data.colour  # refused
from_cloudevent({}, Created)  # refused

bus.redrive("billing", ids=["17"])  # refused
bus.redrive(17)  # refused
bus.drop_subscription("billing", True)  # refused
bus.dead_letters("billing")[0]  # refused
names: list[str] = bus.status()  # refused
"""


@pytest.mark.parametrize("check", CHECKERS)
def test_wrong_use_is_refused(check: Callable[[Path], Report], tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text(WRONG)
    report = check(wrong)
    lines = enumerate(WRONG.split("\n"), 1)
    wanted = {number for number, line in lines if line.endswith("# refused")}
    assert report.lines == wanted, report.text

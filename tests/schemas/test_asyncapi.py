"""The AsyncAPI document of a bus: valid for AsyncAPI's own tools, and true of what is sent."""

import json
from collections.abc import Sequence
from typing import Any

import jsonschema
import msgspec
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgbus import Bus, Event
from pgbus.core.asyncapi import Operation, write_document
from pgbus.core.schema import describe, json_schema
from tests.schemas import asyncapi_tools
from tests.schemas.awkward import EVENTS
from tests.schemas.everything import Everything
from tests.schemas.kinds import event, handler
from tests.schemas.test_fit import Kind, kinds

V1 = event(("order_id", str), key="order_id")
V2 = event(("order_id", str), ("total", int, 0), version=2, key="order_id")
PAID = event(("order_id", str), topic="orders.paid", name="OrderPaid")
ALL = [V1, V2, PAID, Everything, *EVENTS]

OPERATIONS = [
    Operation("billing.orders.created", "receive", "orders.created", (1, 2), "Bills."),
    Operation("send.orders.paid", "send", "orders.paid", (1,), "Pays."),
]


def document(
    types: Sequence[type[Event]] = ALL, operations: Sequence[Operation] = ()
) -> dict[str, Any]:
    schemas = [describe(kind) for kind in types]
    made = write_document("shop", "1.2", schemas, operations)
    # As it is written to a file.
    read: dict[str, Any] = json.loads(msgspec.json.encode(made))
    return read


def errors(parsed: dict[str, Any]) -> list[Any]:
    return [one for one in parsed["diagnostics"] if one["severity"] < 2]


def test_the_json_schema_of_asyncapi_accepts_it() -> None:
    asyncapi_tools.validate(document(ALL, OPERATIONS))
    asyncapi_tools.validate(document([], []))


def test_the_parser_of_asyncapi_accepts_it() -> None:
    parsed = asyncapi_tools.parse(document(ALL, OPERATIONS))
    assert errors(parsed) == []
    assert sorted(parsed["operations"]) == ["billing.orders.created", "send.orders.paid"]
    assert "OrderCreatedV2" in parsed["messages"]
    assert len(parsed["messages"]) == len(ALL)


def test_the_tools_refuse_what_is_wrong() -> None:
    broken = document([V1])
    broken["components"]["schemas"]["OrderCreatedV1"]["type"] = "objec"
    with pytest.raises(jsonschema.ValidationError):
        asyncapi_tools.validate(broken)
    dangling = document([V1])
    dangling["components"]["messages"]["OrderCreatedV1"]["payload"]["$ref"] += "x"
    assert errors(asyncapi_tools.parse(dangling)) != []


def test_a_channel_has_a_message_for_each_version() -> None:
    made = document([PAID, V2, V1], OPERATIONS)
    assert made["channels"]["orders.created"] == {
        "address": "orders.created",
        "messages": {
            name: {"$ref": f"#/components/messages/{name}"}
            for name in ("OrderCreatedV1", "OrderCreatedV2")
        },
    }
    assert made["operations"]["billing.orders.created"]["messages"] == [
        {"$ref": f"#/channels/orders.created/messages/{name}"}
        for name in ("OrderCreatedV1", "OrderCreatedV2")
    ]
    titles = [one["title"] for name, one in made["components"]["schemas"].items() if "V" in name]
    assert titles == ["OrderCreatedV1", "OrderCreatedV2", "OrderPaidV1"]
    message = made["components"]["messages"]["OrderCreatedV2"]
    assert message["payload"] == {"$ref": "#/components/schemas/OrderCreatedV2"}
    assert message["x-pgbus-key"] == "order_id"
    assert "the field order_id" in message["headers"]["properties"]["x-pgmq-group"]["description"]


def test_the_order_of_the_types_makes_no_difference() -> None:
    assert document(ALL, OPERATIONS) == document(ALL[::-1], OPERATIONS[::-1])


def test_names_that_collide_are_told_apart() -> None:
    other = event(("a", int), topic="users.created", name="OrderCreated")
    named = event(("a", int), topic="a", name="OrderCreatedV1")
    made = document([V1, other, named])
    assert list(made["components"]["messages"]) == ["aV1", "orders.createdV1", "users.createdV1"]
    asyncapi_tools.validate(made)


def test_a_renamed_field_refers_to_its_class_and_makes_no_other() -> None:
    part = msgspec.defstruct("Part", [("n", int)])
    kind = event(("part", part, msgspec.field(name="its part")))
    fields = document([kind])["components"]["schemas"]["OrderCreatedV1"]["properties"]
    assert fields == {"its part": {"$ref": "#/components/schemas/Part"}}


def validator(made: dict[str, Any], schema: dict[str, Any]) -> jsonschema.Draft7Validator:
    """Return a validator of a part of a document, as draft 7, references and all."""
    return jsonschema.Draft7Validator({**schema, "components": made["components"]})


def test_messages_are_as_it_says(bus_dsn: str) -> None:
    kind = event(("order_id", str), ("total", int, 0), key="order_id")
    with Bus(bus_dsn, service="the shop") as bus, psycopg.connect(bus_dsn) as connection:
        bus.subscribe("#", name="all")(handler(dict[str, Any], print))
        bus.declare()
        bus.publish(kind(order_id="a", total=3))
        bus.publish("orders.created", kind(order_id="b"), key=None, headers={"x-own": "1"})
        rows = connection.execute("select headers, message from pgmq.q_all").fetchall()
    made = document([kind])
    message = made["components"]["messages"]["OrderCreatedV1"]
    assert len(rows) == 2
    for headers, body in rows:
        validator(made, message["headers"]).validate(headers)
        validator(made, message["payload"]).validate(body)
        with pytest.raises(jsonschema.ValidationError):
            validator(made, message["headers"]).validate({**headers, "pgbus-version": 2})
        del headers["specversion"]
        with pytest.raises(jsonschema.ValidationError):
            validator(made, message["headers"]).validate(headers)


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(kinds, st.data())
def test_bodies_fit_their_schemas(one: Kind, data: st.DataObject) -> None:
    """In the document's draft, and in that of the registry."""
    kind = event(("a", one.type))
    body = json.loads(msgspec.json.encode(kind(a=data.draw(one.values))))
    made = document([kind])
    payload = made["components"]["messages"]["OrderCreatedV1"]["payload"]
    validator(made, payload).validate(body)
    schema = json_schema(kind)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(body)


def test_what_does_not_fit_is_refused_in_both_drafts() -> None:
    part = msgspec.defstruct("Part", [("n", int), ("kind", "str | None", None)], array_like=True)
    kind = event(("parts", list[part]), ("by", dict[int, tuple[int, str]]))  # type: ignore[valid-type]
    made, schema = document([kind]), json_schema(kind)
    payload = made["components"]["messages"]["OrderCreatedV1"]["payload"]
    validators = (validator(made, payload), jsonschema.Draft202012Validator(schema))
    good: dict[str, Any] = {"parts": [[1], [1, "x", 3]], "by": {"1": [1, "a"]}}
    bad: list[dict[str, Any]] = [
        {"parts": [[]]},
        {"parts": [["x"]]},
        {"by": {"x": [1, "a"]}},
        {"by": {"1": ["a", 1]}},
    ]
    for one in validators:
        one.validate(good)
        for wrong in bad:
            assert not one.is_valid({**good, **wrong}), wrong

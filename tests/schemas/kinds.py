"""Event types for these tests, made on the spot: one topic in many shapes."""

from collections.abc import Callable
from typing import Any

from pgbus import Event
from pgbus.core.schema import json_schema
from pgbus.model.event import EventMeta

TOPIC = "orders.created"


def event(
    *fields: Any,
    version: int = 1,
    topic: str = TOPIC,
    name: str = "OrderCreated",
    key: str | None = None,
) -> Any:
    """Make an event type of ``(name, type)`` and ``(name, type, default)``.

    ``Any``, because mypy cannot know a class that is made of values.
    """
    namespace: dict[str, Any] = {"__module__": __name__, "__annotations__": {}}
    for field_name, kind, *default in fields:
        namespace["__annotations__"][field_name] = kind
        if default:
            namespace[field_name] = default[0]
    return EventMeta(name, (Event,), namespace, topic=topic, version=version, key=key)


def handler(annotation: Any, handle: Callable[[Any], object]) -> Callable[[Any], None]:
    """Return a handler of events of a type that is only known when it runs."""

    def on_event(event: Any) -> None:
        handle(event)

    on_event.__annotations__["event"] = annotation
    return on_event


def schema(kind: Any) -> dict[str, Any]:
    """Return the schema of a type, or of a field of that type."""
    return json_schema(kind)

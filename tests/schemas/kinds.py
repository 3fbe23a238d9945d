"""Event types for these tests, made on the spot: one topic in many shapes."""

from typing import Any

import msgspec

from pgbus import Event
from pgbus.core.schema import json_schema

TOPIC = "orders.created"


def event(*fields: Any, version: int = 1, topic: str = TOPIC, name: str = "OrderCreated") -> Any:
    """Make an event type of ``(name, type)`` and ``(name, type, default)``.

    ``Any``, because mypy cannot know a class that is made of values.
    """
    made = msgspec.defstruct(
        name,
        [tuple(field) for field in fields],
        bases=(Event,),
        namespace={"__module__": __name__},
        kw_only=True,
        frozen=True,
    )
    made.__event_topic__ = topic  # type: ignore[attr-defined]
    made.__event_version__ = version  # type: ignore[attr-defined]
    return made


def schema(kind: Any) -> dict[str, Any]:
    """Return the schema of a type, or of a field of that type."""
    return json_schema(kind)

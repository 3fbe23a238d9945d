"""An AsyncAPI 3.0 document of a service: its channels, messages and operations.

A channel is a topic, a message a version of its event type. The schemas in it are JSON Schema's
draft 7, which is what AsyncAPI's own dialect extends, and what its tools read.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from pgbus.core.definitions import Pool, root_name
from pgbus.core.fit import Node
from pgbus.core.schema import ATTRIBUTE, ENUMERATION, KEY, EventSchema
from pgbus.model import envelope

VERSION: Final = "3.0.0"
_HEADERS: Final = "EventHeaders"
_CONTENT_TYPE: Final = "application/json"
_SCHEMAS: Final = "#/components/schemas/"
_WORDS: Final = {
    "prefixItems": "items",
    "items": "additionalItems",
    "anyOf": "anyOf",
    "additionalProperties": "additionalProperties",
    "propertyNames": "propertyNames",
}
"""What schemas lie below, and what draft 7 calls it where an array has places of their own."""
_LEFT_OUT: Final = ("discriminator", ENUMERATION, ATTRIBUTE)
"""The first is OpenAPI's, and means something else here; the second refers to a place; the third is
Python's, and beside a reference would make tools see another class."""
_TEXT: Final = {"type": "string"}


@dataclass(frozen=True, slots=True)
class Operation:
    """What a service does with the events of a topic."""

    name: str
    action: Literal["send", "receive"]
    topic: str
    versions: tuple[int, ...]
    summary: str


def write_document(
    title: str,
    release: str,
    schemas: Sequence[EventSchema],
    operations: Iterable[Operation],
) -> dict[str, Any]:
    """Return the document, as JSON has it.

    Parameters:
        title: the service's name.
        release: its version.
        schemas: each topic and version once, in any order.
        operations: of topics and versions that are among the schemas.
    """
    ordered = sorted(schemas, key=lambda one: (one.topic, one.version))
    names = _names(ordered)
    ids = {(one.topic, one.version): name for one, name in zip(ordered, names, strict=True)}
    pool = Pool(ordered, names, {_HEADERS}, lambda name: re.sub(r"[^A-Za-z0-9_]+", "_", name))
    definitions = {
        # Generators of code name their classes after the titles, each of which is to be another.
        one.name: {**_definition(pool, one.source, one.node), "title": one.name}
        for one in sorted(pool.definitions, key=lambda one: one.name)
    }
    return {
        "asyncapi": VERSION,
        "info": {"title": title, "version": release},
        "defaultContentType": _CONTENT_TYPE,
        "channels": _channels(ids),
        "operations": {
            one.name: _operation(one, ids) for one in sorted(operations, key=lambda one: one.name)
        },
        "components": {
            "messages": {
                name: _message(one, name) for one, name in zip(ordered, names, strict=True)
            },
            "schemas": {_HEADERS: _headers(), **definitions},
        },
    }


def _names(schemas: Sequence[EventSchema]) -> list[str]:
    """Return what the messages, and the schemas of their payloads, are called."""
    topics = Counter(name for name, _ in {(one.plain_name, one.topic) for one in schemas})
    made: list[str] = []
    for one in schemas:
        plain = one.plain_name if topics[one.plain_name] == 1 else one.topic
        name = f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', plain)}V{one.version}"
        while name in made:
            name += "_"
        made.append(name)
    return made


def _channels(ids: dict[tuple[str, int], str]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for (topic, _), name in ids.items():
        channel = made.setdefault(topic, {"address": topic, "messages": {}})
        channel["messages"][name] = {"$ref": f"#/components/messages/{name}"}
    return made


def _operation(one: Operation, ids: dict[tuple[str, int], str]) -> dict[str, Any]:
    channel = f"#/channels/{one.topic}"
    return {
        "action": one.action,
        "summary": one.summary,
        "channel": {"$ref": channel},
        "messages": [
            {"$ref": f"{channel}/messages/{ids[one.topic, version]}"} for version in one.versions
        ],
    }


def _message(schema: EventSchema, name: str) -> dict[str, Any]:
    made: dict[str, Any] = {"name": schema.name, "title": schema.label}
    described = schema.document["$defs"][root_name(schema)].get("description")
    if described:
        made["summary"] = described.partition("\n")[0]
        made["description"] = described
    made["contentType"] = _CONTENT_TYPE
    made["headers"] = _own_headers(schema)
    made["payload"] = {"$ref": _SCHEMAS + name}
    made["correlationId"] = {"location": f"$message.header#/{envelope.CORRELATION}"}
    if schema.key is not None:
        made[KEY] = schema.key
    return made


def _headers() -> dict[str, Any]:
    """Return the schema of what every message has: the attributes of CloudEvents, and pgbus's."""
    properties: dict[str, Any] = {
        envelope.ID: {**_TEXT, "format": "uuid", "description": "Of the event; time-ordered."},
        envelope.SOURCE: {**_TEXT, "format": "uri-reference", "description": "Who published it."},
        envelope.TYPE: {**_TEXT, "description": "The topic."},
        envelope.TIME: {**_TEXT, "format": "date-time", "description": "When it was published."},
        envelope.SPEC_VERSION: {**_TEXT, "enum": [envelope.CLOUDEVENTS_VERSION]},
        envelope.CONTENT_TYPE: {**_TEXT, "enum": [_CONTENT_TYPE]},
        envelope.TOPIC: _TEXT,
        envelope.VERSION: {"type": "integer", "minimum": 1},
    }
    always = list(properties)
    properties[envelope.CORRELATION] = {
        **_TEXT,
        "description": "What all events of one cause have in common.",
    }
    properties[envelope.CAUSATION] = {
        **_TEXT,
        "description": "The id of the event that caused this one.",
    }
    properties[envelope.KEY] = {
        **_TEXT,
        "description": "The key: events that share it are handled in order.",
    }
    properties[envelope.DOWNCASTS] = {
        "type": "object",
        "description": "The payload in earlier versions, by version.",
    }
    return {
        "type": "object",
        "description": "CloudEvents 1.0, and what pgbus adds.",
        "properties": properties,
        "required": always,
    }


def _own_headers(schema: EventSchema) -> dict[str, Any]:
    """Return the schema of the headers of one message."""
    own: dict[str, Any] = {
        envelope.TYPE: {**_TEXT, "enum": [schema.topic]},
        envelope.TOPIC: {**_TEXT, "enum": [schema.topic]},
        envelope.VERSION: {"type": "integer", "enum": [schema.version]},
    }
    if schema.key is not None:
        own[envelope.KEY] = {
            **_TEXT,
            "description": f"The key: the field {schema.key}, as text. Events that share it are "
            "handled in order.",
            KEY: schema.key,
        }
    return {"type": "object", "allOf": [{"$ref": _SCHEMAS + _HEADERS}], "properties": own}


def _definition(pool: Pool, source: int, node: Node) -> Any:
    """Return a schema in the words of draft 7."""
    if not isinstance(node, dict):
        return node

    def inner(part: Node) -> Any:
        return _definition(pool, source, part)

    made: dict[str, Any] = {}
    words = {word: value for word, value in node.items() if word not in _LEFT_OUT}
    for word, value in words.items():
        if word == "$ref":
            # In draft 7, what stands beside a reference is ignored.
            reference = {"$ref": _SCHEMAS + pool.name(source, value)}
            made |= reference if len(words) == 1 else {"allOf": [reference]}
        elif word == "enum":
            made |= _enumeration(value)
        elif word == "properties":
            made[word] = {name: inner(part) for name, part in value.items()}
        elif word in _WORDS:
            told = _WORDS[word] if "prefixItems" in node else word
            made[told] = (
                [inner(part) for part in value] if isinstance(value, list) else inner(value)
            )
        else:
            made[word] = value
    return made


def _enumeration(values: list[Any]) -> dict[str, Any]:
    kinds = {type(one) for one in values}
    word = {str: "string", int: "integer"}.get(kinds.pop()) if len(kinds) == 1 else None
    return {"enum": values} if word is None else {"type": word, "enum": values}

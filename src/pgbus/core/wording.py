"""What a person would call a type and a value."""

import json
from typing import Any, Final

from pgbus.core.fit import Node, is_anything, is_mapping, kind, resolve
from pgbus.core.schema import BOUNDS, INTEGER_KEY, NUMBER_KEY, SIZE, ZONE

_BOUNDS: Final = {
    "minimum": "from",
    "exclusiveMinimum": "above",
    "maximum": "to",
    "exclusiveMaximum": "below",
    "multipleOf": "multiple of",
    "minLength": "at least",
    "maxLength": "at most",
    "minItems": "at least",
    "maxItems": "at most",
    "minProperties": "at least",
    "maxProperties": "at most",
    "pattern": "like",
}
_LONGEST: Final = 60


def name_of(node: Node, definitions: dict[str, Any]) -> str:
    """Return what a person would call a type.

    Parameters:
        node: the schema.
        definitions: those that it may refer to.
    """
    node = resolve(node, definitions)
    if is_anything(node):
        return "anything"
    if "anyOf" in node:
        return " | ".join(name_of(one, definitions) for one in node["anyOf"])
    if "enum" in node:
        return f"one of {', '.join(map(show, node['enum']))}"
    if kind(node) == "object" and not is_mapping(node):
        return str(node.get("title", "an object"))
    if kind(node) == "object":
        values = name_of(node.get("additionalProperties", {}), definitions)
        return f"mapping{_keys(node.get('propertyNames', {}))} to {values}{_bounds(node)}"
    if kind(node) == "array":
        return _array_name(node, definitions)
    form = node.get("format") or node.get("contentEncoding")
    zone = {"required": " with a time zone", "none": ""}.get(node.get(ZONE), "")
    name = str(form) if form else str(node.get("type"))
    return f"{name}{zone}{_bounds(node)}"


def _keys(names: Node) -> str:
    return f" of {_key(names)}" if names != {} else ""


def _key(names: Node) -> str:
    if names is False:
        return "no keys"
    if "anyOf" in names:
        return " | ".join(map(_key, names["anyOf"]))
    number = {INTEGER_KEY: "integer", NUMBER_KEY: "number"}.get(names.get("pattern", ""))
    if number is not None:
        return f"{number}{_bounds(names.get(BOUNDS, {}))}"
    return name_of(names if "enum" in names else {"type": "string", **names}, {})


def _array_name(node: Node, definitions: dict[str, Any]) -> str:
    if "prefixItems" in node:
        inside = ", ".join(name_of(one, definitions) for one in node["prefixItems"])
        return f"array of ({inside}){_bounds(node)}"
    word = "set" if node.get("uniqueItems") is True else "array"
    return f"{word} of {name_of(node.get('items', {}), definitions)}{_bounds(node)}"


def _bounds(node: Node) -> str:
    length = len(node.get("prefixItems", ()))
    if kind(node) == "array" and node.get("minItems") == node.get("maxItems") == length:
        return ""
    if SIZE in node:
        return f" of bytes{_bounds(node[SIZE])}"
    found = [f"{word} {node[name]}" for name, word in _BOUNDS.items() if name in node]
    return f" ({', '.join(found)})" if found else ""


def show(value: Any) -> str:
    """Return a value as JSON, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"

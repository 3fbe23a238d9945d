"""From a JSON Schema to the annotation, and the default, of a field that has that schema.

What JSON Schema cannot tell: a struct from a dataclass, a named tuple or a ``TypedDict``; a list
from a variadic tuple, a set from a frozen one; ``msgspec.Raw`` from ``Any``; what a default factory
makes. What a type of msgspec cannot say is said with ``Meta(extra_json_schema=…)``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import msgspec

from pgbus.core.fit import Node, is_anything, resolve
from pgbus.core.schema import (
    ATTRIBUTE,
    BOUNDS,
    ENUMERATION,
    INTEGER_KEY,
    MEMBERS,
    NUMBER_KEY,
    OMITS,
    SIZE,
    ZONE,
)
from pgbus.core.source import Imports, literal, text
from pgbus.errors import ConfigurationError

_FORMATS: Final = {
    "date": "date",
    "date-time": "datetime",
    "date-time-local": "datetime",
    "time": "time",
    "time-local": "time",
    "duration": "timedelta",
    "uuid": "UUID",
    "decimal": "Decimal",
}
_NUMBERS: Final = {
    "minimum": "ge",
    "exclusiveMinimum": "gt",
    "maximum": "le",
    "exclusiveMaximum": "lt",
    "multipleOf": "multiple_of",
}
_TEXTS: Final = {"minLength": "min_length", "maxLength": "max_length", "pattern": "pattern"}
_SIZES: Final = {"minimum": "min_length", "maximum": "max_length"}
_PROSE: Final = {"title": "title", "description": "description", "examples": "examples"}
_SILENT: Final = {"default", "discriminator", ATTRIBUTE, MEMBERS, OMITS}
_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
_PLAIN: Final = {"boolean": "bool", "integer": "int", "number": "float", "null": "None"}


class NoTypeError(ConfigurationError):
    """A schema for which there is no type."""


@dataclass(slots=True)
class Saying:
    """An annotation while it is put together."""

    base: str
    used: set[str]
    """The keywords that it expresses."""
    meta: dict[str, str]
    """The arguments of ``Meta``, as source."""


class Annotator:
    """Writes the annotations of one schema's fields.

    Parameters:
        imports: collects what they use.
        definitions: the schema's.
        name: returns what the class of a reference is called.
    """

    def __init__(
        self, imports: Imports, definitions: dict[str, Any], name: Callable[[str], str]
    ) -> None:
        self._use = imports.use
        self._definitions = definitions
        self._name = name

    def annotation(self, node: Node, **extra: Any) -> str:
        """Return the source of a type.

        Parameters:
            node: the schema of a value.
            extra: further keywords that the type is to carry.

        Raises:
            NoTypeError: there is none.
        """
        if node is True:
            node = {}
        if not isinstance(node, dict):
            raise NoTypeError("there is nothing that fits it")
        said = self._say(node)
        said.meta |= {word: literal(node[key]) for key, word in _PROSE.items() if key in node}
        rest = {
            word: value
            for word, value in node.items()
            if word not in said.used and word not in _PROSE and word not in _SILENT
        }
        rest |= extra
        if rest:
            said.meta["extra_json_schema"] = literal(rest)
        if not said.meta:
            return said.base
        arguments = ", ".join(f"{word}={value}" for word, value in said.meta.items())
        return f"{self._use('Annotated')}[{said.base}, {self._use('Meta')}({arguments})]"

    def _say(self, node: dict[str, Any]) -> Saying:
        if "$ref" in node:
            return Saying(self._name(node["$ref"]), {"$ref"}, {})
        if "anyOf" in node:
            members = " | ".join(self.annotation(one) for one in node["anyOf"])
            return Saying(members, {"anyOf"}, {})
        if "enum" in node:
            return Saying(self._literals(node["enum"]), {"enum"}, {})
        if is_anything(node):
            return Saying(self._use("Any"), set(), {})
        kind = node["type"]
        if kind in ("integer", "number"):
            return self._bounded(_PLAIN[kind], node, _NUMBERS)
        if kind == "string":
            return self._string(node)
        if kind == "array":
            return self._array(node)
        if kind == "object" and "properties" not in node:
            return self._mapping(node)
        if kind in ("boolean", "null"):
            return Saying(self._builtin(_PLAIN[kind]), {"type"}, {})
        raise NoTypeError(f"of type {kind!r} in place, without a definition")

    def _builtin(self, name: str) -> str:
        return name if name == "None" else self._use(name)

    def _bounded(self, name: str, node: dict[str, Any], words: dict[str, str]) -> Saying:
        meta = {word: literal(node[key]) for key, word in words.items() if key in node}
        return Saying(self._builtin(name), {"type", *words}, meta)

    def _literals(self, values: list[Any]) -> str:
        if not values or any(isinstance(one, bool | float | list | dict) for one in values):
            raise NoTypeError("one of values that are neither text nor integers")
        return f"{self._use('Literal')}[{', '.join(map(literal, values))}]"

    def _string(self, node: dict[str, Any]) -> Saying:
        if node.get("contentEncoding") == "base64":
            size = node.get(SIZE, {})
            meta = {_SIZES[word]: literal(value) for word, value in size.items()}
            used = {"type", "contentEncoding", "minLength", "maxLength", SIZE}
            return Saying(self._use("bytes"), used, meta)
        form = node.get("format")
        if form not in _FORMATS:
            return self._bounded("str", node, _TEXTS)
        zone = node.get(ZONE)
        meta = {} if zone is None else {"tz": str(zone == "required")}
        return Saying(self._use(_FORMATS[form]), {"type", "format", ZONE}, meta)

    def _array(self, node: dict[str, Any]) -> Saying:
        if "prefixItems" in node:
            return self._tuple(node)
        meta = _size(node, "Items")
        used = {"type", "items", "minItems", "maxItems"}
        item = self.annotation(node.get("items", {}))
        if node.get("uniqueItems") is True and self._is_hashable(node.get("items", {})):
            return Saying(f"{self._use('frozenset')}[{item}]", used | {"uniqueItems"}, meta)
        if node.get("default"):
            return Saying(f"{self._use('tuple')}[{item}, ...]", used, meta)
        return Saying(f"{self._use('list')}[{item}]", used, meta)

    def _tuple(self, node: dict[str, Any]) -> Saying:
        places = node["prefixItems"]
        if not node.get("minItems") == node.get("maxItems") == len(places):
            raise NoTypeError("an array that may be longer or shorter than its places")
        inside = ", ".join(self.annotation(one) for one in places)
        used = {"type", "prefixItems", "minItems", "maxItems"}
        return Saying(f"{self._use('tuple')}[{inside}]", used, {})

    def _mapping(self, node: dict[str, Any]) -> Saying:
        keys = self._keys(node.get("propertyNames", {}))
        values = self.annotation(node.get("additionalProperties", {}))
        used = {"type", "propertyNames", "additionalProperties", "minProperties", "maxProperties"}
        return Saying(f"{self._use('dict')}[{keys}, {values}]", used, _size(node, "Properties"))

    def _keys(self, names: Node) -> str:
        if names is False:
            return self._use("bool")  # one of those that JSON has no text for
        if ENUMERATION in names:
            return self._name(names[ENUMERATION])
        if "anyOf" in names:
            return " | ".join(self._keys(one) for one in names["anyOf"])
        kind = {INTEGER_KEY: "integer", NUMBER_KEY: "number"}.get(names.get("pattern", ""))
        if kind is not None:
            return self.annotation({"type": kind, **names.get(BOUNDS, {})})
        return self.annotation(names if "enum" in names else {"type": "string", **names})

    def _is_hashable(self, node: Node) -> bool:
        node = resolve(node, self._definitions)
        if not isinstance(node, dict):
            return False
        if "anyOf" in node:
            return all(map(self._is_hashable, node["anyOf"]))
        if "prefixItems" in node:
            return node.get("minItems") == node.get("maxItems") and all(
                map(self._is_hashable, node["prefixItems"])
            )
        return "enum" in node or node.get("type") in {"string", *_PLAIN}

    def value(self, node: Node, value: Any) -> str | None:
        """Return the source of a default that is a constant; ``None`` where there is none.

        Parameters:
            node: the schema of the field.
            value: as JSON has it.
        """
        if "$ref" in node:
            return self._of_definition(node["$ref"], value)
        if "anyOf" in node:
            found = (self.value(one, value) for one in node["anyOf"])
            return next((one for one in found if one is not None), None)
        if "enum" in node:
            return literal(value) if value in node["enum"] else None
        if isinstance(value, list):
            return self._many(node, value)
        if isinstance(value, dict):
            return None
        if is_anything(node):
            return literal(value)
        return self._scalar(node, value)

    def _of_definition(self, reference: str, value: Any) -> str | None:
        node = resolve({"$ref": reference}, self._definitions)
        if not isinstance(value, list | dict) and value in node.get("enum", ()):
            return f"{self._name(reference)}.{member_names(node)[node['enum'].index(value)]}"
        return None

    def _many(self, node: dict[str, Any], value: list[Any]) -> str | None:
        if node.get("type") != "array" or ("prefixItems" not in node and not value):
            return None
        places = node.get("prefixItems", [node.get("items", {})] * len(value))
        if len(places) != len(value):
            return None
        found = [self.value(*pair) for pair in zip(places, value, strict=True)]
        inside = [one for one in found if one is not None]
        if len(inside) < len(value):
            return None
        if node.get("uniqueItems") is True and self._is_hashable(node.get("items", {})):
            return f"{self._use('frozenset')}({{{', '.join(inside)}}})"
        return f"({', '.join(inside)},)" if len(inside) == 1 else f"({', '.join(inside)})"

    def _scalar(self, node: dict[str, Any], value: Any) -> str | None:
        if type(value) not in _TYPES.get(node["type"], ()):
            return None
        if not isinstance(value, str):
            return literal(value)
        if node.get("contentEncoding") == "base64":
            return repr(msgspec.convert(value, bytes))
        form = _FORMATS.get(node.get("format", ""))
        if form is None:
            return text(value)
        if form == "timedelta":
            return self._duration(msgspec.convert(value, timedelta))
        if form in ("UUID", "Decimal"):
            return f"{self._use(form)}({text(value)})"
        return f"{self._use(form)}.fromisoformat({text(value)})"

    def _duration(self, value: timedelta) -> str:
        parts = (
            ("days", value.days),
            ("seconds", value.seconds),
            ("microseconds", value.microseconds),
        )
        given = ", ".join(f"{name}={number}" for name, number in parts if number)
        return f"{self._use('timedelta')}({given})"


def member_names(node: dict[str, Any]) -> list[str]:
    """Return what the values of an enumeration are called, in their order."""
    given = node.get(MEMBERS, ())
    if len(given) != len(node["enum"]) or not all(
        isinstance(one, str) and one.isidentifier() for one in given
    ):
        return [f"VALUE_{number}" for number in range(1, len(node["enum"]) + 1)]
    return list(given)


def _size(node: dict[str, Any], what: str) -> dict[str, str]:
    words = {f"min{what}": "min_length", f"max{what}": "max_length"}
    return {word: literal(node[key]) for key, word in words.items() if key in node}

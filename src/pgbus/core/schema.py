"""The JSON Schema of an event type, written from what msgspec knows of it.

Written here and not by ``msgspec.json.schema``, because that leaves out what a contract needs: a
``datetime`` is a plain string there, ``dict[int, str]`` has keys of any kind, and a renamed field
has forgotten its name. The keywords are JSON Schema's (2020-12); what it has no words for begins
with ``x-pgbus-``.
"""

import inspect
import math
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from msgspec import inspect as types

from pgbus.core.account import text_of
from pgbus.core.fingerprint import fingerprint
from pgbus.errors import ConfigurationError
from pgbus.model.event import Event

Schema = dict[str, Any]
"""A JSON Schema, as decoded JSON."""

KEY: Final = "x-pgbus-key"
"""Of the whole schema: the field whose value orders the events."""
ATTRIBUTE: Final = "x-pgbus-attribute"
"""Of a property: what Python calls it, where that is another name."""
ELEMENTS: Final = "x-pgbus-elements"
"""Of an array that is a struct: the names of its fields."""
TAG: Final = "x-pgbus-tag"
"""Of a struct: the property that tells it from the others of its union."""
MEMBERS: Final = "x-pgbus-members"
"""Of an enumeration: what Python calls its values, in their order."""
BOUNDS: Final = "x-pgbus-bounds"
"""Of the names of a mapping's properties that are numbers: the bounds of those."""
ENUMERATION: Final = "x-pgbus-enumeration"
"""Of the names of a mapping's properties: the definition of which they are the values, as text."""
SIZE: Final = "x-pgbus-size"
"""Of base64: how many bytes it stands for."""
OMITS: Final = "x-pgbus-omits-defaults"
"""Of a struct: what has its default value is left out when it is written."""
ZONE: Final = "x-pgbus-timezone"
"""Of a time: ``required`` or ``none``; without it, both are taken."""

_REF: Final = "#/$defs/"
INTEGER_KEY: Final = "^-?(0|[1-9][0-9]*)$"
"""What the names of a mapping's properties look like where they are integers …"""
NUMBER_KEY: Final = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$"
"""… and where they are floats."""
_BOUNDS: Final = (
    ("ge", "minimum"),
    ("gt", "exclusiveMinimum"),
    ("le", "maximum"),
    ("lt", "exclusiveMaximum"),
    ("multiple_of", "multipleOf"),
    ("min_length", "minLength"),
    ("max_length", "maxLength"),
    ("pattern", "pattern"),
)
_SIZES: Final = {"minLength": "minimum", "maxLength": "maximum"}
_FORMATS: Final[dict[type, Schema]] = {
    types.AnyType: {},
    types.RawType: {},
    types.NoneType: {"type": "null"},
    types.BoolType: {"type": "boolean"},
    types.DateType: {"type": "string", "format": "date"},
    types.TimeDeltaType: {"type": "string", "format": "duration"},
    types.UUIDType: {"type": "string", "format": "uuid"},
    types.DecimalType: {"type": "string", "format": "decimal"},
}
_OBJECTS: Final = (
    types.StructType,
    types.DataclassType,
    types.NamedTupleType,
    types.TypedDictType,
)
_FACTORIES: Final = (list, dict, set, frozenset, tuple, bytearray)


@dataclass(frozen=True, slots=True)
class EventSchema:
    """What an event type looks like on the wire, and who else would look the same."""

    topic: str
    version: int
    name: str
    """Of the class, without its module."""
    document: Schema
    """``{"$ref": "#/$defs/<name>", "$defs": {…}}``, the key beside it."""
    fingerprint: str
    """Equal for types that read and write the same; see :mod:`pgbus.core.fingerprint`."""

    @property
    def label(self) -> str:
        """Topic and version for people: ``orders.created version 2``."""
        return f"{self.topic} version {self.version}"

    @property
    def plain_name(self) -> str:
        """The name without the version, where that is its end: ``OrderCreatedV1``."""
        return self.name.removesuffix(f"V{self.version}") or self.name

    @property
    def key(self) -> str | None:
        """The field whose value orders the events, by its name in Python."""
        found: str | None = self.document.get(KEY)
        return found


def describe(kind: type[Event]) -> EventSchema:
    """Return the schema of an event type that has a topic.

    Raises:
        ConfigurationError: msgspec cannot tell what a field holds.
    """
    topic = kind.__event_topic__
    assert topic is not None
    try:
        document = json_schema(kind)
    except Exception as error:
        raise ConfigurationError(
            f"event {kind.__qualname__}: its schema cannot be told ({type(error).__name__}: "
            f"{text_of(error)})"
        ) from error
    if kind.__event_key__ is not None:
        document[KEY] = kind.__event_key__
    return EventSchema(
        topic, kind.__event_version__, kind.__name__, document, fingerprint(document)
    )


def json_schema(kind: Any) -> Schema:
    """Return the JSON Schema of any type that msgspec can decode from JSON."""
    info = types.type_info(kind)
    names = _names(info)
    writer = _Writer(names)
    document = writer.node(info)
    definitions = {names[one.cls]: writer.definition(one) for one in _named(info)}
    if definitions:
        document["$defs"] = definitions
    return document


def _parts(info: Any) -> Iterator[Any]:
    """Yield the types that a type directly consists of."""
    if isinstance(info, types.Metadata):
        yield info.type
    elif isinstance(info, _OBJECTS):
        yield from (field.type for field in info.fields)
    elif isinstance(info, types.CollectionType):
        yield info.item_type
    elif isinstance(info, types.TupleType):
        yield from info.item_types
    elif hasattr(info, "key_type"):
        yield from (info.key_type, info.value_type)
    elif isinstance(info, types.UnionType):
        yield from info.types


def _named(root: Any) -> list[Any]:
    """Return the types that get a definition of their own, in the order of their first use."""
    found: dict[Any, Any] = {}
    stack = [root]
    while stack:
        info = stack.pop()
        if isinstance(info, (*_OBJECTS, types.EnumType)):
            if info.cls in found:
                continue
            found[info.cls] = info
        stack.extend(reversed(list(_parts(info))))
    return list(found.values())


def _names(root: Any) -> dict[Any, str]:
    """Name the definitions after their classes; equal names get a number from the second on."""
    names: dict[Any, str] = {}
    for info in _named(root):
        origin = getattr(info.cls, "__origin__", info.cls)
        arguments = [
            getattr(one, "__name__", str(one)) for one in getattr(info.cls, "__args__", ())
        ]
        plain = re.sub(r"\W+", "_", "_".join([origin.__name__, *arguments])).strip("_")
        name, number = plain, 1
        while name in names.values():
            number += 1
            name = f"{plain}_{number}"
        names[info.cls] = name
    return names


class _Writer:
    """Turns msgspec's descriptions into JSON Schema."""

    def __init__(self, names: dict[Any, str]) -> None:
        self._names = names

    def node(self, info: Any) -> Schema:
        """Return the schema of a type, by reference where it has a definition."""
        said: Schema = {}
        while isinstance(info, types.Metadata):
            said = {**(info.extra_json_schema or {}), **said}
            info = info.type
        if isinstance(info, (*_OBJECTS, types.EnumType)):
            return {"$ref": _REF + self._names[info.cls], **said}
        return {**self._plain(info), **said}

    def definition(self, info: Any) -> Schema:
        """Return the schema of a class."""
        said = {"title": getattr(info.cls, "__name__", self._names[info.cls])}
        if text := _doc(info.cls):
            said["description"] = text
        if isinstance(info, types.EnumType):
            members = sorted(info.cls, key=lambda member: member.value)
            names = [member.name for member in members]
            return {**said, "enum": [member.value for member in members], MEMBERS: names}
        if isinstance(info, types.NamedTupleType) or getattr(info, "array_like", False):
            return {**said, **self._array(info)}
        return {**said, **self._object(info)}

    def _plain(self, info: Any) -> Schema:
        known = _FORMATS.get(type(info))
        if known is not None:
            return dict(known)
        if isinstance(info, (types.IntType, types.FloatType, types.StrType)):
            kind = {types.IntType: "integer", types.FloatType: "number"}.get(type(info), "string")
            return {"type": kind, **_bounds(info)}
        if isinstance(info, (types.BytesType, types.ByteArrayType, types.MemoryViewType)):
            return _base64(info)
        if isinstance(info, types.DateTimeType):
            return _time(info, "date-time")
        if isinstance(info, types.TimeType):
            return _time(info, "time")
        if isinstance(info, types.LiteralType):
            return _literals(info.values)
        if isinstance(info, types.UnionType):
            return self._union(info)
        return self._container(info)

    def _container(self, info: Any) -> Schema:
        if isinstance(info, types.CollectionType):
            made: Schema = {"type": "array", **_size(info, "Items")}
            if item := self.node(info.item_type):
                made["items"] = item
            if isinstance(info, (types.SetType, types.FrozenSetType)):
                made["uniqueItems"] = True
            return made
        if isinstance(info, types.TupleType):
            length = len(info.item_types)
            made = {"type": "array", "minItems": length, "maxItems": length}
            if length:
                made["prefixItems"] = [self.node(one) for one in info.item_types]
            return made
        if hasattr(info, "key_type"):
            made = {"type": "object", **_size(info, "Properties")}
            keys = self._keys(info.key_type)
            if keys != {}:
                made["propertyNames"] = keys
            made["additionalProperties"] = self.node(info.value_type)
            return made
        return {}  # a class that msgspec knows nothing of; a hook may write anything

    def _keys(self, info: Any) -> Schema | bool:
        """Return what the names of a mapping's properties, which are strings, have to be.

        Nothing fits where msgspec makes no text of a key: a bool, a tuple, a struct.
        """
        bare = _bare(info)
        if isinstance(bare, types.EnumType):
            values = sorted(str(member.value) for member in bare.cls)
            return {"enum": values, ENUMERATION: _REF + self._names[bare.cls]}
        if isinstance(bare, types.UnionType):
            return {"anyOf": [self._keys(one) for one in bare.types]}
        if isinstance(bare, types.LiteralType):
            return {"enum": sorted(str(one) for one in bare.values if one is not None)}
        node = self.node(info)
        if node.get("type") in ("integer", "number"):
            made: Schema = {"pattern": INTEGER_KEY if node["type"] == "integer" else NUMBER_KEY}
            bounds = {word: node[word] for _, word in _BOUNDS if word in node}
            return {**made, BOUNDS: bounds} if bounds else made
        if "$ref" in node or node.get("type", "string") != "string":
            return False
        return {name: value for name, value in node.items() if name != "type"}

    def _union(self, info: Any) -> Schema:
        made: Schema = {"anyOf": [self.node(one) for one in info.types]}
        structs = [one for one in map(_bare, info.types) if isinstance(one, types.StructType)]
        tagged = [one for one in structs if one.tag_field is not None and not one.array_like]
        if len(tagged) > 1:
            mapping = {str(one.tag): _REF + self._names[one.cls] for one in tagged}
            made["discriminator"] = {"propertyName": tagged[0].tag_field, "mapping": mapping}
        return made

    def _object(self, info: Any) -> Schema:
        made: Schema = {"type": "object", "properties": {}, "required": []}
        tag = getattr(info, "tag_field", None)
        if tag is not None:
            made["properties"][tag] = {"enum": [info.tag]}
            made["required"].append(tag)
            made[TAG] = tag
        for field in info.fields:
            made["properties"][field.encode_name] = self._field(field)
            if field.required:
                made["required"].append(field.encode_name)
        if getattr(info, "forbid_unknown_fields", False):
            made["additionalProperties"] = False
        config = getattr(info.cls, "__struct_config__", None)
        if config is not None and config.omit_defaults:
            made[OMITS] = True
        return made

    def _array(self, info: Any) -> Schema:
        nodes = [self._field(field) for field in info.fields]
        if getattr(info, "tag_field", None) is not None:
            nodes.insert(0, {"enum": [info.tag]})
        required = 0
        for place, field in enumerate(info.fields, 1):
            if field.required:
                required = place
        tags = len(nodes) - len(info.fields)
        made: Schema = {"type": "array", "minItems": required + tags}
        if nodes:
            made["prefixItems"] = nodes
        if isinstance(info, types.NamedTupleType) or info.forbid_unknown_fields:
            made["maxItems"] = len(nodes)
        made[ELEMENTS] = [field.name for field in info.fields]
        if tags:
            made[TAG] = info.tag_field
        return made

    def _field(self, field: Any) -> Schema:
        node = self.node(field.type)
        if field.name != field.encode_name:
            node[ATTRIBUTE] = field.name
        default, factory = field.default, field.default_factory
        if factory in _FACTORIES:
            default = factory()
        if isinstance(default, float) and not math.isfinite(default):
            return node  # it would be written as null, which is another value
        if not field.required and default is not msgspec.NODEFAULT:
            # As it would be written; what the encoder cannot write is no part of the contract.
            with suppress(TypeError, ValueError, OverflowError):
                written = msgspec.json.encode(default, order="deterministic")
                node["default"] = msgspec.json.decode(written)
        return node


def _bare(info: Any) -> Any:
    while isinstance(info, types.Metadata):
        info = info.type
    return info


def _bounds(info: Any) -> Schema:
    found = ((word, getattr(info, name, None)) for name, word in _BOUNDS)
    return {word: value for word, value in found if value is not None}


def _literals(values: tuple[Any, ...]) -> Schema:
    """Return the schema of some values: null apart, so that ``| None`` means the same."""
    chosen = sorted(set(values) - {None}, key=lambda one: (str(type(one)), one))
    if None not in values:
        return {"enum": chosen}
    return {"anyOf": [{"enum": chosen}, {"type": "null"}]} if chosen else {"type": "null"}


def _size(info: Any, what: str) -> Schema:
    found = ((f"min{what}", info.min_length), (f"max{what}", info.max_length))
    return {word: value for word, value in found if value is not None}


def _base64(info: Any) -> Schema:
    made: Schema = {"type": "string", "contentEncoding": "base64"}
    for word, length in (("minLength", info.min_length), ("maxLength", info.max_length)):
        if length is not None:
            made[word] = 4 * ((length + 2) // 3)
            made.setdefault(SIZE, {})[_SIZES[word]] = length
    return made


def _time(info: Any, word: str) -> Schema:
    if info.tz is None:
        return {"type": "string", "format": word}
    if info.tz:
        return {"type": "string", "format": word, ZONE: "required"}
    return {"type": "string", "format": f"{word}-local", ZONE: "none"}


def _doc(kind: Any) -> str:
    kind = getattr(kind, "__origin__", kind)
    text = inspect.cleandoc(kind.__dict__.get("__doc__") or "").strip()
    generated = text.startswith(f"{kind.__name__}(") or text == "An enumeration."
    return "" if generated else text

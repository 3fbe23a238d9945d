"""Whether every document that one schema allows can be read by another.

That is what "compatible" means everywhere in pgbus: the reader is msgspec, which ignores properties
it does not know (unless told otherwise), takes an integer where a float or a decimal is asked for,
and needs every field without a default. The writer is taken at its word: it writes what its schema
allows, and no property beside those it names. Reading is not enough: what one side leaves out must
not mean something else to the other, and a struct must not stand for a mapping, or a list, of which
it would ignore the most.

Where JSON Schema could decide more than is worth deciding (two patterns of which one implies the
other), the answer is no.
"""

import re
from typing import Any, Final

from pgbus.core.schema import BOUNDS, ELEMENTS, INTEGER_KEY, NUMBER_KEY, OMITS, SIZE, TAG, ZONE

Node = Any
"""A JSON Schema as decoded JSON: an object, or true or false."""

_NUMBERS: Final = ("integer", "number", "decimal")
_FEW: Final = {"boolean": (True, False), "null": (None,)}
"""The values of the types that have few."""
_NARROWER: Final = {
    "date-time": ("date-time-local",),
    "time": ("time-local",),
    NUMBER_KEY: (INTEGER_KEY,),
}
"""Of what a text has to be: what is that, too."""
_KINDS: Final[dict[type, str]] = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    type(None): "null",
    list: "array",
    dict: "object",
}


class Fit:
    """Compares the parts of two schemas.

    Parameters:
        reader: the whole schema of who reads.
        writer: the whole schema of who writes.
    """

    def __init__(self, reader: dict[str, Any], writer: dict[str, Any]) -> None:
        self._reader = reader.get("$defs", {})
        self._writer = writer.get("$defs", {})
        self._fitting: dict[tuple[int, int], tuple[Node, Node]] = {}
        """What fits, or is under examination, in the order of its examination: by the identities of
        the nodes, which are kept so that no other node gets them."""
        self._unfit: dict[tuple[int, int], tuple[Node, Node]] = {}
        """What does not fit, whatever else does."""

    def fits(self, reader: Node, writer: Node) -> bool:
        """Return whether whatever fits the node ``writer`` fits the node ``reader``, too."""
        reader, writer = resolve(reader, self._reader), resolve(writer, self._writer)
        pair = (id(reader), id(writer))
        if pair in self._fitting:
            return True  # under examination: a circle is fine unless something else is not
        if pair in self._unfit:
            return False
        mark = len(self._fitting)
        self._fitting[pair] = reader, writer
        if self._fits(reader, writer):
            return True
        while len(self._fitting) > mark:
            self._fitting.popitem()  # what was found meanwhile may rest on this pair
        self._unfit[pair] = reader, writer
        return False

    def _fits(self, reader: Node, writer: Node) -> bool:
        if self._takes_anything(reader) or writer is False:
            return True
        if reader is False or is_anything(writer):
            return False
        if "anyOf" in writer:
            return all(self.fits(reader, one) for one in writer["anyOf"])
        if "enum" in writer:
            return all(self._takes(reader, value) for value in writer["enum"])
        if "anyOf" in reader:
            return any(self.fits(one, writer) for one in reader["anyOf"])
        if "enum" in reader:
            few = _FEW.get(kind(writer))
            return few is not None and all(self._takes(reader, value) for value in few)
        return self._same_kind(reader, writer)

    def _takes_anything(self, reader: Node) -> bool:
        members = reader.get("anyOf", [reader]) if isinstance(reader, dict) else [reader]
        return any(is_anything(resolve(one, self._reader)) for one in members)

    def _same_kind(self, reader: Node, writer: Node) -> bool:
        wanted, given = kind(reader), kind(writer)
        if wanted in _NUMBERS and given in _NUMBERS:
            widens = _NUMBERS.index(given) <= _NUMBERS.index(wanted) or given == wanted
            return widens and _bounds_imply(writer, reader)
        if wanted != given and not (wanted == "string" and reader_takes_text(reader, writer)):
            return False
        if wanted == "string":
            return _strings_imply(writer, reader)
        if wanted == "array":
            return self._arrays(reader, writer)
        if wanted == "object":
            return self._objects(reader, writer)
        return True

    def _takes(self, reader: Node, value: Any) -> bool:
        """Return whether a reader takes one value of an enumeration."""
        reader = resolve(reader, self._reader)
        if is_anything(reader):
            return True
        if "anyOf" in reader:
            return any(self._takes(one, value) for one in reader["anyOf"])
        if "enum" in reader:
            return any(value == one and type(value) is type(one) for one in reader["enum"])
        wanted, given = kind(reader), _KINDS[type(value)]
        if wanted in _NUMBERS and given in _NUMBERS:
            return _NUMBERS.index(given) <= _NUMBERS.index(wanted) and _in_bounds(reader, value)
        if wanted != given or not isinstance(value, str):
            return wanted == given
        return _in_length(reader, value) and re.search(reader.get("pattern", ""), value) is not None

    def _arrays(self, reader: Node, writer: Node) -> bool:
        if reader.get("uniqueItems") is True and writer.get("uniqueItems") is not True:
            return False  # what is there twice would be lost
        least, most = writer.get("minItems", 0), _written(writer)
        if least < reader.get("minItems", 0) or most > _room(reader, writer):
            return False
        theirs, ours = writer.get("prefixItems", []), reader.get("prefixItems", [])
        if most > len(theirs) and not self.fits(reader.get("items", {}), writer.get("items", {})):
            return False
        for place in range(int(min(max(len(theirs), len(ours)), most))):
            given = theirs[place] if place < len(theirs) else writer.get("items", {})
            wanted = ours[place] if place < len(ours) else reader.get("items", {})
            if not self.fits(wanted, given):
                return False
        return True

    def _objects(self, reader: Node, writer: Node) -> bool:
        if is_mapping(reader):
            return self._into_mapping(reader, writer)
        wanted, required = reader["properties"], set(reader.get("required", ()))
        if is_mapping(writer):
            return False  # a struct ignores the names that it does not have
        given, surely = writer["properties"], set(writer.get("required", ()))
        if not required <= surely:
            return False
        if reader.get("additionalProperties") is False and not given.keys() <= wanted.keys():
            return False
        shared = [name for name in given if name in wanted]
        if writer.get(OMITS) and any(
            "default" in given[name] and _differ(given[name], wanted[name])
            for name in shared
            if name not in surely
        ):
            return False  # left out, it has another value
        return all(self.fits(wanted[name], given[name]) for name in shared)

    def _into_mapping(self, reader: Node, writer: Node) -> bool:
        values = reader.get("additionalProperties", {})
        names = reader.get("propertyNames")
        if not is_mapping(writer):
            count = (len(writer.get("required", ())), len(writer["properties"]))
            return (
                reader.get("minProperties", 0) <= count[0]
                and count[1] <= reader.get("maxProperties", count[1])
                and all(self.fits(values, one) for one in writer["properties"].values())
                and (names is None or all(_named(names, name) for name in writer["properties"]))
            )
        endless = float("inf")
        return (
            self.fits(values, writer.get("additionalProperties", {}))
            and writer.get("minProperties", 0) >= reader.get("minProperties", 0)
            and writer.get("maxProperties", endless) <= reader.get("maxProperties", endless)
            and (names is None or _names_imply(writer.get("propertyNames", {}), names))
        )


def reads(reader: dict[str, Any], writer: dict[str, Any]) -> bool:
    """Return whether a type with the schema ``reader`` reads all that ``writer`` allows.

    Parameters:
        reader: a whole schema, as :func:`pgbus.core.schema.json_schema` makes it.
        writer: likewise.
    """
    return Fit(reader, writer).fits(reader, writer)


def resolve(node: Node, definitions: dict[str, Any]) -> Node:
    """Return what a node refers to, or the node itself."""
    while (name := _reference(node)) is not None:
        node = definitions[name]
    return node


def is_anything(node: Node) -> bool:
    """Return whether a node allows every document."""
    return node is True or (
        isinstance(node, dict) and not {"type", "enum", "anyOf", "$ref"} & node.keys()
    )


def is_mapping(node: dict[str, Any]) -> bool:
    """Return whether an object has names of its own instead of named properties."""
    return "properties" not in node


def kind(node: dict[str, Any]) -> str:
    """Return a node's type; for numbers that are written as text, ``decimal``."""
    if node.get("format") == "decimal":
        return "decimal"
    return str(node.get("type", ""))


def tag_of(node: dict[str, Any]) -> Any:
    """Return what tells a struct from the others of its union; ``None`` where nothing does."""
    if TAG not in node:
        return None
    place = node["prefixItems"][0] if kind(node) == "array" else node["properties"][node[TAG]]
    return place["enum"][0]


def reader_takes_text(reader: Node, writer: Node) -> bool:
    """Return whether a reader of plain text takes what is text for others, too: decimals."""
    return "format" not in reader and kind(writer) == "decimal"


def _reference(node: Node) -> str | None:
    found = node.get("$ref") if isinstance(node, dict) else None
    return None if found is None else str(found).removeprefix("#/$defs/")


def _differ(one: Node, other: Node) -> bool:
    return "default" not in other or one["default"] != other["default"]


def _written(array: Node) -> float:
    """Return the most elements that are written."""
    # A struct ignores more, but writes none.
    endless = len(array.get("prefixItems", ())) if ELEMENTS in array else float("inf")
    return float(array.get("maxItems", endless))


def _room(reader: Node, writer: Node) -> float:
    """Return for how many elements a reader has room: a struct ignores the later places of one."""
    ignores = ELEMENTS not in reader or ELEMENTS in writer
    endless = float("inf") if ignores else len(reader.get("prefixItems", ()))
    return float(reader.get("maxItems", endless))


def _bounds_imply(given: Node, wanted: Node) -> bool:
    """Return whether the bounds of a number lie within another's."""
    lowest, highest = _lowest(given), _highest(given)
    within = lowest >= _lowest(wanted) and highest <= _highest(wanted)
    factor = wanted.get("multipleOf")
    return within and (
        factor is None or ("multipleOf" in given and given["multipleOf"] % factor == 0)
    )


def _lowest(node: Node) -> tuple[float, bool]:
    """Return the lowest bound, and whether it is excluded: what is greater is narrower."""
    bounds = [(float("-inf"), False)]
    bounds += [(node["minimum"], False)] if "minimum" in node else []
    bounds += [(node["exclusiveMinimum"], True)] if "exclusiveMinimum" in node else []
    return max(bounds)


def _highest(node: Node) -> tuple[float, bool]:
    """Return the highest bound, and whether it is included: what is less is narrower."""
    bounds = [(float("inf"), True)]
    bounds += [(node["maximum"], True)] if "maximum" in node else []
    bounds += [(node["exclusiveMaximum"], False)] if "exclusiveMaximum" in node else []
    return min(bounds)


def _in_bounds(node: Node, value: float) -> bool:
    factor = node.get("multipleOf")
    return (
        _lowest({"minimum": value}) >= _lowest(node)
        and _highest({"maximum": value}) <= _highest(node)
        and (factor is None or value % factor == 0)
    )


def _in_length(node: Node, value: str) -> bool:
    if "format" in node or "contentEncoding" in node:
        return False  # some texts are dates, but nobody promised it
    return bool(node.get("minLength", 0) <= len(value) <= node.get("maxLength", len(value)))


def _strings_imply(given: Node, wanted: Node) -> bool:
    for word in ("format", "contentEncoding", "pattern", ZONE):
        allowed = (wanted.get(word), *_NARROWER.get(wanted.get(word), ()))
        if word in wanted and given.get(word) not in allowed:
            return False
    if not _bounds_imply(given.get(SIZE, {}), wanted.get(SIZE, {})):
        return False
    endless = float("inf")
    return bool(
        given.get("minLength", 0) >= wanted.get("minLength", 0)
        and given.get("maxLength", endless) <= wanted.get("maxLength", endless)
    )


def _named(names: Node, name: str) -> bool:
    if names is False:
        return False
    if "anyOf" in names:
        return any(_named(one, name) for one in names["anyOf"])
    if "enum" in names:
        return name in names["enum"]
    if re.search(names.get("pattern", ""), name) is None or not _in_length(names, name):
        return False
    bounds = names.get(BOUNDS)
    return bounds is None or _in_bounds(bounds, float(name))


def _names_imply(given: Node, wanted: Node) -> bool:
    if given is False or wanted is False:
        return given is False
    if "anyOf" in given:
        return all(_names_imply(one, wanted) for one in given["anyOf"])
    if "anyOf" in wanted:
        return any(_names_imply(given, one) for one in wanted["anyOf"])
    if "enum" in given:
        return all(_named(wanted, name) for name in given["enum"])
    return (
        "enum" not in wanted
        and _strings_imply(given, wanted)
        and _bounds_imply(given.get(BOUNDS, {}), wanted.get(BOUNDS, {}))
    )

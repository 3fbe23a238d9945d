"""The fingerprint of a schema: equal where two types read and write the same JSON.

What people read (titles, descriptions, the names of classes) does not count, nor does the order of
fields, of a union's members or of an enumeration's values, nor whether a part has a definition of
its own. Defaults count: whoever leaves a field out means its default. It is made of the schema's
meaning and not of its text, so a release of msgspec, or of pgbus, that writes it otherwise does
not change it.

Definitions may refer to each other in circles. So each gets a colour, which is the hash of its form
with the colours of what it refers to, over and over: without circles the colours soon stand still
and are plain hashes of trees; in circles, after enough rounds, definitions have the same colour if
nothing reachable from them differs (colour refinement, as for bisimulation).
"""

import hashlib
import json
from typing import Any, Final

ROUNDS: Final = 64
"""Always so many where there are circles, so that the colours do not depend on how often a
definition is repeated. It would take a chain of as many classes to tell two schemas too late."""

SAYS_NOTHING: Final = frozenset(
    {
        "title",
        "description",
        "examples",
        "deprecated",
        "discriminator",  # repeats what the members' tags say
        "$comment",
        "$defs",
        "$id",
        "$schema",
        "x-pgbus-key",
        "x-pgbus-attribute",
        "x-pgbus-enumeration",
        "x-pgbus-members",
        "x-pgbus-tag",
        "x-pgbus-omits-defaults",
    }
)
"""Keywords that do not decide which documents fit."""

_BELOW: Final = frozenset({"prefixItems", "items", "additionalProperties", "propertyNames"})
_Colours = dict[str, str]


def fingerprint(document: dict[str, Any]) -> str:
    """Return the SHA-256, in hexadecimal digits, of what a schema means."""
    return Meaning(document).of(document)


class Meaning:
    """Tells which parts of a schema mean the same.

    Parameters:
        document: a whole schema.
    """

    def __init__(self, document: dict[str, Any]) -> None:
        definitions = document.get("$defs", {})
        colours = dict.fromkeys(definitions, "")
        for _ in range(ROUNDS):
            before = colours
            colours = {name: _colour(node, before) for name, node in definitions.items()}
            if before == colours:
                break
        self._colours = colours

    def of(self, node: Any) -> str:
        """Return the fingerprint of a part."""
        return _colour(node, self._colours)


def _colour(node: Any, colours: _Colours) -> str:
    if node is False:
        return _hash(False)
    if node is True:
        node = {}
    meant = {word: value for word, value in node.items() if word not in SAYS_NOTHING}
    if "default" in meant:
        default = _plain(meant.pop("default"))
        return _hash(["default", default, _colour(meant, colours)])
    if "anyOf" in meant:
        members = sorted({_colour(one, colours) for one in _members(meant["anyOf"])})
        if len(members) == 1 and len(meant) == 1:
            return members[0]
        return _hash({**_words(meant, colours), "anyOf": members})
    reference = meant.pop("$ref", None)
    if reference is not None:
        target = colours[reference.removeprefix("#/$defs/")]
        return target if not meant else _hash([target, _words(meant, colours)])
    return _hash(_words(meant, colours))


def _words(meant: dict[str, Any], colours: _Colours) -> dict[str, Any]:
    """Return the keywords of a schema in their one form, what lies below them as colours."""
    made: dict[str, Any] = {}
    for word, value in meant.items():
        if word == "anyOf" or _is_idle(word, value):
            continue
        if word == "properties":
            made[word] = {name: _colour(one, colours) for name, one in value.items()}
        elif word in _BELOW:
            made[word] = _below(value, colours)
        elif word in ("const", "enum"):
            made["enum"] = sorted({_text(one) for one in (value if word == "enum" else [value])})
        else:
            made[word] = sorted(value) if word == "required" else _plain(value)
    # A mapping of anything to anything has no other words to tell it from a struct without fields.
    if made.get("type") == "object" and "properties" not in meant:
        made["mapping"] = True
    return made


def _is_idle(word: str, value: Any) -> bool:
    """Return whether a keyword allows everything."""
    if word in ("items", "additionalProperties", "propertyNames"):
        return value is True or value == {}
    if word in ("minItems", "minLength", "minProperties"):
        return bool(value == 0)
    return word == "required" and not value


def _below(value: Any, colours: _Colours) -> Any:
    """Return what lies below a keyword as colours: a schema or a list of schemas."""
    if isinstance(value, list):
        return [_colour(one, colours) for one in value]
    return _colour(value, colours)


def _members(members: list[Any]) -> list[Any]:
    """Return the members of a union and of the unions in it."""
    flat: list[Any] = []
    for one in members:
        inner = set(one) - SAYS_NOTHING if isinstance(one, dict) else set()
        flat += _members(one["anyOf"]) if inner == {"anyOf"} else [one]
    return flat


def _plain(value: Any) -> Any:
    """Write 1.0 as 1: JSON Schema makes no difference."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return value


def _text(value: Any) -> str:
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"))


def _hash(value: Any) -> str:
    return hashlib.sha256(_text(value).encode()).hexdigest()

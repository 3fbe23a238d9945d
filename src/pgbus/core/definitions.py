"""The definitions of many schemas under names of their own, so that one document can hold them."""

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pgbus.core.fit import Node
from pgbus.core.schema import ENUMERATION, EventSchema
from pgbus.errors import ConfigurationError

_REF = "#/$defs/"


@dataclass(frozen=True, slots=True)
class Definition:
    """A class that schemas refer to."""

    name: str
    """Among all definitions."""
    source: int
    """The place of the schema that it was found in."""
    node: Node
    root: bool
    """It is an event type itself, of the schema ``source``."""


class Pool:
    """Shares definitions that are the same in several schemas, and tells the others apart.

    Two definitions are the same where they have the same name, and so has, in the same words,
    everything that they refer to.

    Raises:
        ConfigurationError: a schema is not that of a struct, or refers to what it does not define.

    Parameters:
        schemas: in the order in which they come to their names.
        roots: what the event types themselves are called, each name once.
        reserved: names that no other definition may have.
        spell: makes a definition's name one that may be used.
    """

    def __init__(
        self,
        schemas: Sequence[EventSchema],
        roots: Sequence[str],
        reserved: Collection[str],
        spell: Callable[[str], str],
    ) -> None:
        self._taken = {*roots, *reserved}
        self._spell = spell
        self._names: list[dict[str, str]] = []
        self._by_meaning: dict[tuple[str, str], str] = {}
        self.definitions: list[Definition] = []
        for source, (schema, name) in enumerate(zip(schemas, roots, strict=True)):
            self._add_root(source, schema, name)
        for source, schema in enumerate(schemas):
            for name, node in schema.document.get("$defs", {}).items():
                self._add(source, schema, name, node)

    def name(self, source: int, reference: str) -> str:
        """Return what a definition of a schema is called.

        Parameters:
            source: the place of the schema.
            reference: as in ``$ref``.
        """
        return self._names[source][reference.removeprefix(_REF)]

    def _add_root(self, source: int, schema: EventSchema, name: str) -> None:
        target = root_name(schema)
        self._names.append({target: name})
        self._by_meaning.setdefault((target, _meaning(schema, target)), name)
        node = schema.document["$defs"][target]
        self.definitions.append(Definition(name, source, node, root=True))

    def _add(self, source: int, schema: EventSchema, name: str, node: Node) -> None:
        if name in self._names[source]:
            return  # the event type itself
        meaning = (name, _meaning(schema, name))
        chosen = self._by_meaning.get(meaning)
        if chosen is None:
            plain = chosen = self._spell(name)
            number = 1
            while chosen in self._taken:
                number += 1
                chosen = f"{plain}{number}"
            self._taken.add(chosen)
            self._by_meaning[meaning] = chosen
            self.definitions.append(Definition(chosen, source, node, root=False))
        self._names[source][name] = chosen


def root_name(schema: EventSchema) -> str:
    """Return the name, in its schema, of the definition that an event type is.

    Raises:
        ConfigurationError: it is none.
    """
    reference = schema.document.get("$ref")
    if not isinstance(reference, str):
        raise ConfigurationError(f"{schema.label}: its schema is not that of a struct")
    return reference.removeprefix(_REF)


def _meaning(schema: EventSchema, name: str) -> str:
    """Return a definition and everything that it refers to, in one form."""
    definitions = schema.document.get("$defs", {})
    found: dict[str, Any] = {}
    stack = [name]
    while stack:
        current = stack.pop()
        if current not in definitions:
            raise ConfigurationError(f"{schema.label}: it does not define {current!r}")
        if current not in found:
            found[current] = definitions[current]
            stack.extend(references(definitions[current]))
    return json.dumps(found, sort_keys=True)


def references(node: Node) -> Iterator[str]:
    """Yield the names of the definitions that a node refers to, wherever it does."""
    if isinstance(node, dict):
        for word in ("$ref", ENUMERATION):
            if isinstance(node.get(word), str):
                yield node[word].removeprefix(_REF)
        for word, value in node.items():
            if word == "properties":
                yield from references(list(value.values()))  # their names are no keywords
            elif word not in ("default", "enum", "const", "examples"):
                yield from references(value)
    elif isinstance(node, list):
        for one in node:
            yield from references(one)

"""What changed between two schemas, field by field, and whom each change hurts."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from pgbus.core.fingerprint import Meaning
from pgbus.core.fit import Fit, Node, is_anything, is_mapping, kind, resolve, tag_of
from pgbus.core.schema import ATTRIBUTE, ELEMENTS, OMITS, TAG
from pgbus.core.wording import name_of, show

_ABSENT: Final = object()


@dataclass(frozen=True, slots=True)
class Change:
    """One difference between an older and a newer schema."""

    path: str
    """``lines[].sku``; empty for the whole."""
    what: str
    """As the predicate of a sentence: ``was removed``."""
    backward: bool
    """Whether the newer type still reads what the older one writes."""
    forward: bool
    """Whether the older type reads what the newer one writes."""

    def __str__(self) -> str:
        return f"{self.path or 'the body'}: {self.what}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """How two schemas get on with each other."""

    changes: tuple[Change, ...]

    @property
    def backward(self) -> bool:
        """Whether the newer type reads what the older one writes."""
        return all(one.backward for one in self.changes)

    @property
    def forward(self) -> bool:
        """Whether the older type reads what the newer one writes."""
        return all(one.forward for one in self.changes)


def compare(old: dict[str, Any], new: dict[str, Any]) -> Verdict:
    """Compare two whole schemas; nothing is lost where the verdict says that one reads the other.

    Returns:
        The changes, none where both mean the same. Where the one does not read the other, at
        least one change says so.
    """
    comparison = _Comparison(old, new)
    found = list(comparison.compare(old, new, ""))
    fits = comparison.judge(old, new)
    said = Verdict(tuple(found))
    if (said.backward and not fits[0]) or (said.forward and not fits[1]):
        text = "differs in what it allows"
        found.append(Change("", text, backward=fits[0], forward=fits[1]))
    return Verdict(tuple(found))


class _Comparison:
    def __init__(self, old: dict[str, Any], new: dict[str, Any]) -> None:
        self._backward, self._forward = Fit(new, old), Fit(old, new)
        self._old, self._new = old.get("$defs", {}), new.get("$defs", {})
        self._meanings = Meaning(old), Meaning(new)
        self._seen: dict[tuple[int, int], tuple[Node, Node, str]] = {}
        """By identity, with the nodes, so that no other node gets it, and where they were met."""
        self._again: set[str] = set()
        """The paths to parts that were told of elsewhere."""

    def compare(self, old: Node, new: Node, path: str) -> Iterator[Change]:
        """Yield what differs between two nodes."""
        if self._meanings[0].of(old) == self._meanings[1].of(new):
            return
        old, new = resolve(old, self._old), resolve(new, self._new)
        seen = self._seen.setdefault((id(old), id(new)), (old, new, path))[2]
        if seen != path:
            # What is below itself is a circle; a part that occurs twice is told of once.
            below = not seen or path.startswith((f"{seen}.", f"{seen}["))
            if not below and path not in self._again:
                self._again.add(path)
                yield Change(path, f"changed as {seen} did", *self.judge(old, new))
            return
        old, new = _bare(old), _bare(new)
        if self._meanings[0].of(old) != self._meanings[1].of(new):
            yield from self._nodes(old, new, path)

    def _nodes(self, old: Node, new: Node, path: str) -> Iterator[Change]:
        if is_anything(old) or is_anything(new):
            yield self._replaced(old, new, path)
        elif "anyOf" in old or "anyOf" in new:
            yield from self._unions(old, new, path)
        elif "enum" in old and "enum" in new:
            yield from self._enumerations(old, new, path)
        elif kind(old) == kind(new) == "object" and is_mapping(old) == is_mapping(new):
            compare = self._mappings if is_mapping(old) else self._fields
            yield from compare(old, new, path)
        elif kind(old) == kind(new) == "array" and ELEMENTS in old and ELEMENTS in new:
            yield from self._places(old, new, path)
        elif kind(old) == kind(new) == "array" and _length(old) == _length(new):
            yield from self._arrays(old, new, path)
        else:
            yield self._replaced(old, new, path)

    def judge(self, old: Node, new: Node) -> tuple[bool, bool]:
        """Return whether the new reads the old, and the old the new."""
        return self._backward.fits(new, old), self._forward.fits(old, new)

    def _replaced(self, old: Node, new: Node, path: str) -> Change:
        backward, forward = self.judge(old, new)
        how = {(True, False): " (widened)", (False, True): " (narrowed)"}.get(
            (backward, forward), ""
        )
        text = f"{name_of(old, self._old)} became {name_of(new, self._new)}{how}"
        return Change(path, text, backward, forward)

    def _fields(self, old: Node, new: Node, path: str) -> Iterator[Change]:
        before, after = old["properties"], new["properties"]
        renamed = _renamed(before, after)
        for name, other in renamed.items():
            # Where both may be left out, either reads the other, but loses the value.
            text = f"was renamed to {other!r}"
            yield Change(_join(path, name), text, backward=False, forward=False)
        for name in before:
            if name in after:
                needs = name in old["required"], name in new["required"]
                omits = old.get(OMITS) is True, new.get(OMITS) is True
                yield from _need(*needs, _join(path, name))
                if needs == (False, False):
                    yield from _defaults(before[name], after[name], _join(path, name), *omits)
                yield from self.compare(before[name], after[name], _join(path, name))
            elif name not in renamed:
                strict = new.get("additionalProperties") is False
                needed = name in old["required"]
                text = "was removed; the older type needs it" if needed else "was removed"
                yield Change(_join(path, name), text, backward=not strict, forward=not needed)
        for name in after:
            if name not in before and name not in renamed.values():
                strict = old.get("additionalProperties") is False
                yield self._added(new, name, path, strict=strict)
        refused, refuses = (one.get("additionalProperties") is False for one in (old, new))
        yield from _unknown(refused, refuses, path)

    def _added(self, new: Node, name: str, path: str, *, strict: bool) -> Change:
        node = new["properties"][name]
        needed, default = name in new["required"], _default(node)
        text = f"was added: {name_of(node, self._new)}"
        text += " without a default" if needed else ", which may be left out"
        text = text if default is _ABSENT else f"{text}, default {show(default)}"
        return Change(_join(path, name), text, backward=not needed, forward=not strict)

    def _mappings(self, old: Node, new: Node, path: str) -> Iterator[Change]:
        found = list(
            self.compare(
                old.get("additionalProperties", {}),
                new.get("additionalProperties", {}),
                f"{path}.*" if path else "*",
            )
        )
        yield from found or [self._replaced(old, new, path)]

    def _arrays(self, old: Node, new: Node, path: str) -> Iterator[Change]:
        found: list[Change] = []
        names = new.get(ELEMENTS, [])
        pairs = zip(old.get("prefixItems", ()), new.get("prefixItems", ()), strict=True)
        for place, (before, after) in enumerate(pairs):
            word = names[place] if place < len(names) else str(place)
            found += self.compare(before, after, f"{path}[{word}]")
        found += self.compare(old.get("items", {}), new.get("items", {}), f"{path}[]")
        bounds = [(one.get("minItems"), one.get("maxItems")) for one in (old, new)]
        if bounds[0] != bounds[1] or not found:
            found.append(self._replaced(old, new, path))
        yield from found

    def _places(self, old: Node, new: Node, path: str) -> Iterator[Change]:
        """Compare structs that are arrays, where the place is what a name is elsewhere."""
        before, after = _named_places(old), _named_places(new)
        pairs = zip(before, after, strict=False)
        for place, ((name, node), (other, changed)) in enumerate(pairs, 1):
            needs = place <= old.get("minItems", 0), place <= new.get("minItems", 0)
            yield from _need(*needs, f"{path}[{other}]")
            if other == name:
                if needs == (False, False):
                    yield from _defaults(node, changed, f"{path}[{name}]")
                yield from self.compare(node, changed, f"{path}[{name}]")
                continue
            moved = name in dict(after) or other in dict(before)
            text = f"its place is that of {other!r} now"
            yield Change(f"{path}[{name}]", text, backward=not moved, forward=not moved)
            yield from self.compare(node, changed, f"{path}[{other}]")
        for place, (name, _) in enumerate(before[len(after) :], len(after) + 1):
            needed = place <= old.get("minItems", 0)
            text = "was removed; the older type needs it" if needed else "was removed"
            endless = "maxItems" not in new
            yield Change(f"{path}[{name}]", text, backward=endless, forward=not needed)
        for place, (name, node) in enumerate(after[len(before) :], len(before) + 1):
            needed = place <= new.get("minItems", 0)
            text = f"was added: {name_of(node, self._new)}"
            text += " without a default" if needed else ", which may be left out"
            endless = "maxItems" not in old
            yield Change(f"{path}[{name}]", text, backward=not needed, forward=endless)
        yield from _unknown("maxItems" in old, "maxItems" in new, path)

    def _enumerations(self, old: Node, new: Node, path: str) -> Iterator[Change]:
        before, after = old["enum"], new["enum"]
        gone = [show(one) for one in before if one not in after]
        come = [show(one) for one in after if one not in before]
        if gone:
            text = f"lost the value{'s' * (len(gone) > 1)} {', '.join(gone)}"
            yield Change(path, text, backward=False, forward=True)
        if come:
            text = f"gained the value{'s' * (len(come) > 1)} {', '.join(come)}"
            yield Change(path, text, backward=True, forward=False)

    def _unions(self, old: Node, new: Node, path: str) -> Iterator[Change]:
        before, after = self._members(old, self._old), self._members(new, self._new)
        if not before.keys() & after.keys():
            yield self._replaced(old, new, path)
            return
        for name, member in before.items():
            if name in after:
                yield from self.compare(member, after[name], path)
                continue
            fits = self._backward.fits(new, member)
            text = "is never null now" if name == "null" else f"is no longer {name}"
            yield Change(path, text, backward=fits, forward=True)
        for name, member in after.items():
            if name in before:
                continue
            fits = self._forward.fits(old, member)
            text = "may be null now" if name == "null" else f"may be {name} now"
            yield Change(path, text, backward=True, forward=fits)

    def _members(self, node: Node, definitions: dict[str, Any]) -> dict[str, Node]:
        """Return the members of a union by what identifies them."""
        made: dict[str, Node] = {}
        for one in node.get("anyOf", [node]):
            member = resolve(one, definitions)
            if "anyOf" in member:
                made.update(self._members(member, definitions))
                continue
            if TAG in member:
                made[f"a struct with {member[TAG]} {show(tag_of(member))}"] = one
            else:
                made[kind(member) or name_of(one, definitions)] = one
        return made


def _need(before: bool, after: bool, path: str) -> Iterator[Change]:
    if before and not after:
        text = "may be left out now; the older type needs it"
        yield Change(path, text, backward=True, forward=False)
    elif after and not before:
        text = "must be there now; the older type may leave it out"
        yield Change(path, text, backward=False, forward=True)


def _defaults(
    old: Node, new: Node, path: str, old_omits: bool = False, new_omits: bool = False
) -> Iterator[Change]:
    """Compare the defaults of a field that both may leave out; who omits them loses the value."""
    before, after = _default(old), _default(new)
    if before == after:
        return
    if before is _ABSENT:
        text = f"has the default {show(after)} now"
    elif after is _ABSENT:
        text = f"lost its default {show(before)}"
    else:
        text = f"the default {show(before)} became {show(after)}"
    backward = not old_omits or before is _ABSENT
    forward = not new_omits or after is _ABSENT
    text += "" if backward and forward else ", and is left out where it is meant"
    yield Change(path, text, backward, forward)


def _unknown(before: bool, after: bool, path: str) -> Iterator[Change]:
    if before != after:
        text = f"unknown fields are {'refused' if after else 'ignored'} now"
        yield Change(path, text, backward=True, forward=True)


def _bare(node: Node) -> Node:
    """Return a node without its default, which belongs to the field."""
    if isinstance(node, dict) and "default" in node:
        return {word: value for word, value in node.items() if word != "default"}
    return node


def _default(node: Node) -> Any:
    return node.get("default", _ABSENT) if isinstance(node, dict) else _ABSENT


def _named_places(array: Node) -> list[tuple[str, Node]]:
    places = array.get("prefixItems", [])
    tags = len(places) - len(array[ELEMENTS])  # the tag comes first, and has no name
    return list(zip(["the tag"] * tags + array[ELEMENTS], places, strict=False))


def _length(array: Node) -> int:
    return len(array.get("prefixItems", ()))


def _renamed(before: dict[str, Any], after: dict[str, Any]) -> dict[str, str]:
    """Find fields that Python calls the same, under other names than before."""
    gone = {_attribute(node, name): name for name, node in before.items() if name not in after}
    come = {_attribute(node, name): name for name, node in after.items() if name not in before}
    return {gone[attribute]: come[attribute] for attribute in gone if attribute in come}


def _attribute(node: Node, name: str) -> str:
    return str(node.get(ATTRIBUTE, name)) if isinstance(node, dict) else name


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name

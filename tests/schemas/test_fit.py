"""What pgbus calls readable, msgspec reads: whatever the types, whatever the values."""

import sys
from datetime import UTC, date, datetime
from decimal import Decimal
from types import ModuleType
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgbus.core.changes import compare
from pgbus.core.fit import reads
from pgbus.core.schema import json_schema


class Kind(NamedTuple):
    """A type and the values of it."""

    type: Any
    values: st.SearchStrategy[Any]


# A type application of what is only known when it runs is more than a type checker wants to see.
LIST: Any = list
TUPLE: Any = tuple
DICT: Any = dict
NAIVE: Any = Annotated[datetime, msgspec.Meta(tz=False)]
COUNT: Any = Annotated[int, msgspec.Meta(ge=0)]

WORDS = ("a", "b", "c")
SCALARS = [
    Kind(int, st.integers(-(2**40), 2**40)),
    Kind(Annotated[int, msgspec.Meta(ge=0)], st.integers(0, 2**40)),
    Kind(Annotated[int, msgspec.Meta(gt=0, le=9)], st.integers(1, 9)),
    Kind(Annotated[int, msgspec.Meta(multiple_of=2)], st.integers(-9, 9).map(lambda n: n * 2)),
    Kind(float, st.floats(allow_nan=False, allow_infinity=False, width=32)),
    Kind(bool, st.booleans()),
    Kind(str, st.text(max_size=5)),
    Kind(Annotated[str, msgspec.Meta(max_length=3)], st.text(max_size=3)),
    Kind(Annotated[str, msgspec.Meta(min_length=1)], st.text(min_size=1, max_size=5)),
    Kind(Annotated[str, msgspec.Meta(pattern="^a")], st.text(max_size=3).map("a{}".format)),
    Kind(bytes, st.binary(max_size=4)),
    Kind(Annotated[bytes, msgspec.Meta(max_length=2)], st.binary(max_size=2)),
    Kind(Annotated[bytes, msgspec.Meta(min_length=2)], st.binary(min_size=2, max_size=4)),
    Kind(Decimal, st.decimals(allow_nan=False, allow_infinity=False, places=2)),
    Kind(datetime, st.datetimes()),
    Kind(Annotated[datetime, msgspec.Meta(tz=True)], st.datetimes(timezones=st.just(UTC))),
    Kind(Annotated[datetime, msgspec.Meta(tz=False)], st.datetimes()),
    Kind(date, st.dates()),
    Kind(UUID, st.uuids()),
    Kind(Literal["a"], st.just("a")),
    Kind(Literal["a", "b"], st.sampled_from(("a", "b"))),
    Kind(Literal[1, 2], st.sampled_from((1, 2))),
    Kind(Any, st.none() | st.integers(-5, 5) | st.text(max_size=2)),
]
scalars = st.sampled_from(SCALARS)


def _list(of: Kind) -> st.SearchStrategy[Kind]:
    values = st.lists(of.values, max_size=3)
    return st.sampled_from(
        [
            Kind(LIST[of.type], values),
            Kind(TUPLE[of.type, ...], values.map(tuple)),
            Kind(
                Annotated[LIST[of.type], msgspec.Meta(min_length=1)],
                st.lists(of.values, min_size=1, max_size=3),
            ),
        ]
    )


def _pair(one: Kind, other: Kind) -> Kind:
    return Kind(TUPLE[one.type, other.type], st.tuples(one.values, other.values))


def _mapping(of: Kind) -> st.SearchStrategy[Kind]:
    return st.sampled_from(
        [
            Kind(DICT[str, of.type], st.dictionaries(st.sampled_from(WORDS), of.values)),
            Kind(DICT[int, of.type], st.dictionaries(st.integers(-9, 9), of.values)),
            Kind(DICT[COUNT, of.type], st.dictionaries(st.integers(0, 9), of.values)),
            Kind(DICT[Literal["a", "b"], of.type], st.dictionaries(st.just("b"), of.values)),
        ]
    )


def _optional(of: Kind) -> Kind:
    if of.type is Any:
        return of
    return Kind(of.type | None, st.none() | of.values)


@st.composite
def _structs(draw: st.DrawFn, fields: st.SearchStrategy[Kind]) -> Kind:
    chosen = draw(st.lists(st.tuples(st.sampled_from(WORDS), fields), max_size=3))
    pairs: list[tuple[Any, ...]] = []
    values = {}
    for name, kind in dict(chosen).items():
        if draw(st.booleans()):
            pairs.append((name, kind.type, msgspec.field(default=draw(kind.values.filter(_plain)))))
        else:
            pairs.append((name, kind.type))
        values[name] = kind.values
    forbid, omit, array = draw(st.booleans()), draw(st.booleans()), draw(st.integers(0, 5)) == 0
    if array:
        pairs.sort(key=len)
    made = msgspec.defstruct(
        "S",
        pairs,
        kw_only=not array,
        forbid_unknown_fields=forbid,
        omit_defaults=omit,
        array_like=array,
    )
    return Kind(made, st.fixed_dictionaries(values).map(lambda one: made(**one)))


def _plain(value: Any) -> bool:
    return not isinstance(value, (list, dict, set, tuple, msgspec.Struct))


def _made_of(inner: st.SearchStrategy[Kind]) -> st.SearchStrategy[Kind]:
    return (
        inner.flatmap(_list)
        | st.builds(_pair, inner, inner)
        | inner.flatmap(_mapping)
        | inner.map(_optional)
        | _structs(inner)
    )


kinds = scalars | _made_of(scalars | _made_of(scalars))


@st.composite
def related(draw: st.DrawFn) -> tuple[Kind, Kind]:
    """Two structs that share some of their fields: independent ones are seldom readable."""
    shared = draw(st.lists(st.tuples(st.sampled_from(WORDS), kinds), max_size=2))

    def make() -> Kind:
        pairs: list[tuple[Any, ...]] = []
        values = {}
        more = draw(st.lists(st.tuples(st.sampled_from("dg"), kinds), max_size=1))
        for name, kind in dict([*shared, *more]).items():
            chosen = _optional(kind) if draw(st.integers(0, 3)) == 0 else kind
            default = draw(st.integers(0, 2)) == 0
            field = msgspec.field(default=draw(chosen.values.filter(_plain))) if default else None
            pairs.append((name, chosen.type, field) if default else (name, chosen.type))
            values[name] = chosen.values
        made = msgspec.defstruct("S", pairs, kw_only=True, omit_defaults=draw(st.booleans()))
        return Kind(made, st.fixed_dictionaries(values).map(lambda one: made(**one)))

    return make(), make()


SETTINGS = settings(
    max_examples=600,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def read(reader: Any, body: bytes) -> None:
    msgspec.json.decode(body, type=reader)


@SETTINGS
@given(st.data(), kinds)
def test_a_type_reads_itself(data: st.DataObject, one: Kind) -> None:
    schema = json_schema(one.type)
    assert reads(schema, schema)
    assert compare(schema, schema).changes == ()
    read(one.type, msgspec.json.encode(data.draw(one.values)))


@SETTINGS
@given(st.data(), st.integers(0, 3).flatmap(lambda n: st.tuples(kinds, kinds) if n else related()))
def test_what_is_called_readable_is_read(data: st.DataObject, pair: tuple[Kind, Kind]) -> None:
    writer, reader = pair
    old, new = json_schema(writer.type), json_schema(reader.type)
    verdict = compare(old, new)
    if verdict.backward:
        assert reads(new, old)
        read(reader.type, msgspec.json.encode(data.draw(writer.values)))
    if verdict.forward:
        assert reads(old, new)
        read(writer.type, msgspec.json.encode(data.draw(reader.values)))


class Leaf(msgspec.Struct):
    n: int
    next: "Leaf | None" = None


class Branch(msgspec.Struct):
    n: float
    next: "Branch | None" = None


class Stem(msgspec.Struct):
    n: int
    next: "Knot | None" = None


class Knot(msgspec.Struct):
    n: str
    next: Stem | None = None


def test_circles_come_to_an_end() -> None:
    leaf, branch, stem = json_schema(Leaf), json_schema(Branch), json_schema(Stem)
    assert reads(branch, leaf)
    assert not reads(leaf, branch)
    assert not reads(stem, leaf)
    assert [str(one) for one in compare(leaf, branch).changes] == [
        "n: integer became number (widened)"
    ]
    [change] = compare(leaf, stem).changes
    assert change.path == "next.n"


def tree(letter: str, leaf: Any) -> Any:
    """Make classes that all refer to all of them."""
    names = [f"{letter}{number}" for number in range(12)]
    anyone = " | ".join(names)
    module = ModuleType(f"{__name__}.{letter}")
    sys.modules[module.__name__] = module  # where msgspec looks for what annotations mean
    for tag, name in enumerate(names):
        fields: list[tuple[str, Any]] = [("left", anyone), ("right", anyone), ("value", leaf)]
        made = msgspec.defstruct(name, fields, module=module.__name__, tag=tag)
        setattr(module, name, made)
    try:
        return json_schema(getattr(module, names[0]))
    finally:
        del sys.modules[module.__name__]


def test_each_pair_of_types_is_compared_once() -> None:
    """Otherwise, as many comparisons as there are ways through these would take for ever."""
    older, newer = tree("A", int), tree("B", float)
    assert reads(newer, older)
    assert not reads(older, newer)
    assert compare(older, newer).backward


class Cat(msgspec.Struct, tag=True):
    lives: int


class Dog(msgspec.Struct, tag=True):
    tricks: list[str]


class Fish(msgspec.Struct, tag=True):
    pass


def test_unions_of_structs_are_told_apart_by_their_tags() -> None:
    two, three = json_schema(list[Cat | Dog]), json_schema(list[Cat | Dog | Fish])
    assert reads(three, two)
    assert not reads(two, three)
    [change] = compare(two, three).changes
    assert str(change) == '[]: may be a struct with type "Fish" now'
    assert (change.backward, change.forward) == (True, False)


@pytest.mark.parametrize(
    ("writer", "reader", "fits"),
    [
        (Literal["a"], str, True),
        (Literal["a"], Annotated[str, msgspec.Meta(max_length=0)], False),
        (Literal[3], Annotated[int, msgspec.Meta(lt=3)], False),
        (Literal[3], float, True),
        (Literal[3, "x"], int | str, True),
        (int | str, int | str | None, True),
        (dict[str, int], dict[Literal["a"], int], False),
        (dict[Literal["a"], int], dict[str, float], True),
        (datetime, str, True),
        (str, datetime, False),
        (int, Decimal, True),
        (Decimal, float, False),
        (Decimal, str, True),
        (frozenset[int], list[int], True),
        (tuple[int, str], list[int | str], True),
        (list[int], tuple[int, int], False),
        (list[int], list[float] | None, True),
        (Any, int, False),
        (msgspec.Raw | None, msgspec.Raw | None, True),
        (msgspec.Raw | None, msgspec.Raw, True),
        (msgspec.Raw | None, int | None, False),
        (bool, int, False),
        (bool, Literal[0, 1], False),
        (Literal["a"] | None, Literal["a", None], True),
        (None, Literal["a", None], True),
        (NAIVE, datetime, True),
        (datetime, NAIVE, False),
    ],
)
def test_pairs(writer: Any, reader: Any, fits: bool) -> None:
    assert reads(json_schema(reader), json_schema(writer)) is fits

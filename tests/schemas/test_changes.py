"""Each kind of change: what is said of it, and whom it hurts."""

import enum
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import UNSET, UnsetType

from pgbus.core.changes import compare
from tests.schemas.kinds import event, schema


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class MoreColour(enum.Enum):
    RED = "red"
    BLUE = "blue"
    GREEN = "green"


class Line(msgspec.Struct):
    sku: str
    count: int


class LongLine(msgspec.Struct):
    sku: str
    count: float
    note: str = ""


class Card(msgspec.Struct, tag="card"):
    number: str


class Cash(msgspec.Struct, tag="cash"):
    pass


def row(*fields: Any, **options: Any) -> Any:
    """Make a struct that is an array."""
    return msgspec.defstruct("Row", list(fields), array_like=True, **options)


def omitting(*fields: Any) -> Any:
    """Make a struct that leaves out what has its default."""
    return msgspec.defstruct("Omitting", list(fields), omit_defaults=True)


SHORT: Any = Annotated[str, msgspec.Meta(max_length=5)]
SMALL: Any = Annotated[int, msgspec.Meta(lt=7)]
NAMED: Any = msgspec.field(name="orderId")
OPTIONAL: Any = msgspec.field(default=None)
MADE: Any = msgspec.field(default_factory=lambda: [1])
AT_MOST_4: Any = Annotated[bytes, msgspec.Meta(max_length=4)]
AT_MOST_6: Any = Annotated[bytes, msgspec.Meta(max_length=6)]
NAIVE: Any = Annotated[datetime, msgspec.Meta(tz=False)]

COLOURS, MORE = 'one of "blue", "red"', 'one of "blue", "green", "red"'
BOTH, BACKWARD, FORWARD, NEITHER = (True, True), (True, False), (False, True), (False, False)

CHANGES: list[tuple[str, list[Any], list[Any], list[str], tuple[bool, bool]]] = [
    (
        "added with a default",
        [],
        [("b", str, "x")],
        ['b: was added: string, which may be left out, default "x"'],
        BOTH,
    ),
    ("added without", [], [("b", int)], ["b: was added: integer without a default"], FORWARD),
    ("removed, optional", [("b", int, 1)], [], ["b: was removed"], BOTH),
    (
        "removed, needed",
        [("b", int)],
        [],
        ["b: was removed; the older type needs it"],
        BACKWARD,
    ),
    (
        "widened",
        [("b", int)],
        [("b", float)],
        ["b: integer became number (widened)"],
        BACKWARD,
    ),
    (
        "narrowed",
        [("b", str)],
        [("b", SHORT)],
        ["b: string became string (at most 5) (narrowed)"],
        FORWARD,
    ),
    ("replaced", [("b", int)], [("b", str)], ["b: integer became string"], NEITHER),
    (
        "optional now",
        [("b", int)],
        [("b", int | None)],
        ["b: may be null now"],
        BACKWARD,
    ),
    ("never null now", [("b", int | None)], [("b", int)], ["b: is never null now"], FORWARD),
    (
        "more values",
        [("b", Colour)],
        [("b", MoreColour)],
        ['b: gained the value "green"'],
        BACKWARD,
    ),
    (
        "fewer values",
        [("b", Literal["x", "y", "z"])],
        [("b", Literal["x"])],
        ['b: lost the values "y", "z"'],
        FORWARD,
    ),
    (
        "a member more",
        [("b", Card)],
        [("b", Card | Cash)],
        ['b: may be a struct with type "cash" now'],
        BACKWARD,
    ),
    (
        "a member less",
        [("b", Card | Cash)],
        [("b", Cash)],
        ['b: is no longer a struct with type "card"'],
        FORWARD,
    ),
    (
        "renamed",
        [("order_id", str)],
        [("order_id", str, NAMED)],
        ["order_id: was renamed to 'orderId'"],
        NEITHER,
    ),
    (
        "a default",
        [("b", int, 1)],
        [("b", int, 2)],
        ["b: the default 1 became 2"],
        BOTH,
    ),
    (
        "may be left out now",
        [("b", int)],
        [("b", int, 1)],
        ["b: may be left out now; the older type needs it"],
        BACKWARD,
    ),
    (
        "must be there now",
        [("b", int, 1)],
        [("b", int)],
        ["b: must be there now; the older type may leave it out"],
        FORWARD,
    ),
    (
        "deep down",
        [("lines", list[Line])],
        [("lines", list[LongLine])],
        [
            "lines[].count: integer became number (widened)",
            'lines[].note: was added: string, which may be left out, default ""',
        ],
        BACKWARD,
    ),
    (
        "in two places",
        [("one", Line), ("many", list[Line])],
        [("one", LongLine), ("many", list[LongLine])],
        [
            "one.count: integer became number (widened)",
            'one.note: was added: string, which may be left out, default ""',
            "many[]: changed as one did",
        ],
        BACKWARD,
    ),
    (
        "in a mapping",
        [("by", dict[str, Line])],
        [("by", dict[str, LongLine])],
        [
            "by.*.count: integer became number (widened)",
            'by.*.note: was added: string, which may be left out, default ""',
        ],
        BACKWARD,
    ),
    (
        "keys of a mapping",
        [("by", dict[Colour, int])],
        [("by", dict[MoreColour, int])],
        [f"by: mapping of {COLOURS} to integer became mapping of {MORE} to integer (widened)"],
        BACKWARD,
    ),
    (
        "keys that are numbers",
        [("by", dict[int, int])],
        [("by", dict[str, int])],
        ["by: mapping of integer to integer became mapping to integer (widened)"],
        BACKWARD,
    ),
    (
        "a place more, at the end",
        [("b", row(("x", int)))],
        [("b", row(("x", int), ("y", int, 0)))],
        ["b[y]: was added: integer, which may be left out"],
        BOTH,
    ),
    (
        "a place more, which has to be there",
        [("b", row(("x", int)))],
        [("b", row(("x", int), ("y", int)))],
        ["b[y]: was added: integer without a default"],
        FORWARD,
    ),
    (
        "a place less",
        [("b", row(("x", int), ("y", int)))],
        [("b", row(("x", int)))],
        ["b[y]: was removed; the older type needs it"],
        BACKWARD,
    ),
    (
        "places that were swapped",
        [("b", row(("x", int), ("y", int)))],
        [("b", row(("y", int), ("x", int)))],
        ["b[x]: its place is that of 'y' now", "b[y]: its place is that of 'x' now"],
        NEITHER,
    ),
    (
        "a place by another name",
        [("b", row(("x", int)))],
        [("b", row(("z", int)))],
        ["b[x]: its place is that of 'z' now"],
        BOTH,
    ),
    (
        "a set",
        [("b", list[int])],
        [("b", set[int])],
        ["b: array of integer became set of integer (narrowed)"],
        FORWARD,
    ),
    (
        "a default more",
        [("b", int | UnsetType, UNSET)],
        [("b", int, 1)],
        ["b: has the default 1 now"],
        BOTH,
    ),
    (
        "a default less",
        [("b", list[int], [])],
        [("b", list[int], MADE)],
        ["b: lost its default []"],
        BOTH,
    ),
    (
        "a default that is left out",
        [("b", omitting(("x", int, 1)))],
        [("b", omitting(("x", int, 2)))],
        ["b.x: the default 1 became 2, and is left out where it is meant"],
        NEITHER,
    ),
    (
        "a default that was left out",
        [("b", omitting(("x", int, 1)))],
        [("b", omitting(("x", int | UnsetType, UNSET)))],
        ["b.x: lost its default 1, and is left out where it is meant"],
        FORWARD,
    ),
    (
        "left out by one of two",
        [("b", omitting(("x", int, 1)))],
        [("b", msgspec.defstruct("Other", [("x", int, 2)]) | None)],
        ["b.x: the default 1 became 2, and is left out where it is meant", "b: may be null now"],
        NEITHER,
    ),
    (
        "a place that may be left out",
        [("b", row(("x", int)))],
        [("b", row(("x", int, 1)))],
        ["b[x]: may be left out now; the older type needs it"],
        BACKWARD,
    ),
    (
        "more places than it knows",
        [("b", row(("x", int)))],
        [("b", row(("x", int), forbid_unknown_fields=True))],
        ["b: unknown fields are refused now"],
        BOTH,
    ),
    (
        "a member more among arrays",
        [("b", row(("x", int), tag="a"))],
        [("b", row(("x", int), tag="a") | row(tag="b"))],
        ['b: may be a struct with type "b" now'],
        BACKWARD,
    ),
    (
        "fewer bytes, of as many characters",
        [("b", AT_MOST_6)],
        [("b", AT_MOST_4)],
        ["b: base64 of bytes (to 6) became base64 of bytes (to 4) (narrowed)"],
        FORWARD,
    ),
    (
        "any moment",
        [("b", NAIVE)],
        [("b", datetime)],
        ["b: date-time-local became date-time (widened)"],
        BACKWARD,
    ),
    (
        "a struct instead of a mapping",
        [("b", dict[str, int])],
        [("b", msgspec.defstruct("Struct", [("x", int, 0)]))],
        ["b: mapping to integer became Struct (narrowed)"],
        FORWARD,
    ),
    (
        "a struct instead of a list",
        [("b", list[int])],
        [("b", row(("x", int, 0)))],
        ["b: array of integer became array of (integer) (at least 0) (narrowed)"],
        FORWARD,
    ),
    (
        "a place of a tuple",
        [("b", tuple[int, str])],
        [("b", tuple[int, float])],
        ["b[1]: string became number"],
        NEITHER,
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "said", "reads"), [one[1:] for one in CHANGES], ids=[one[0] for one in CHANGES]
)
def test_a_change_is_named_and_judged(
    old: list[Any], new: list[Any], said: list[str], reads: tuple[bool, bool]
) -> None:
    verdict = compare(schema(event(("a", int), *old)), schema(event(("a", int), *new)))
    assert [str(one) for one in verdict.changes] == said
    assert (verdict.backward, verdict.forward) == reads


@pytest.mark.parametrize(
    ("writer", "reader", "fits"),
    [
        (dict[str, int], dict[Colour, int], False),
        (dict[MoreColour, int], dict[Colour, int], False),
        (dict[Colour, int], dict[MoreColour, int], True),
        (dict[Colour, int], dict[str, int], True),
        (dict[str, int], dict[float, int], False),
        (dict[int, int], dict[SMALL, int], False),
        (dict[SMALL, int], dict[int, int], True),
        (dict[Literal["1"], int], dict[SMALL, int], True),
        (dict[Literal["7"], int], dict[SMALL, int], False),
        (dict[int, int], dict[int | Colour, int], True),
        (dict[int | Colour, int], dict[int, int], False),
        (dict[int | Colour, int], dict[str, int], True),
        (dict[int, int], dict[float, int], True),
        (dict[float, int], dict[int, int], False),
        (dict[str, int], dict[bool, int], False),
        (dict[int, int], dict[tuple[int, int], int], False),
        (dict[int, int], dict[Card, int], False),
        (dict[bool, int], dict[str, int], True),
    ],
)
def test_keys_of_mappings(writer: Any, reader: Any, fits: bool) -> None:
    assert compare(schema(writer), schema(reader)).backward is fits

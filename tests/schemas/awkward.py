"""Event types that are hard to write down: names that hide others, hostile texts, circles."""

import enum
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from pgbus import Event

HOSTILE = '"""\nimport os; os.abort()  # \\ {x} \' \x1b[31m'


class Kind(enum.Enum):
    class_ = "class"
    SAME = "same"


class Level(enum.IntEnum):
    LOW = -1
    HIGH = 1


class Point(Struct, frozen=True):
    x: int
    y: int = 0


class Node(Struct, tag=7, tag_field="t"):
    children: "list[Node | Leaf]" = []
    parent: "Node | None" = None


class Leaf(Struct, tag=8, tag_field="t", array_like=False):
    value: float | Decimal = 0.5


class Tagged(Struct, array_like=True, tag=True):
    first: int
    second: Kind = Kind.SAME
    third: str | None = None


class Box(Struct):
    """Is told twice: once for each event."""

    content: Point


Text = str
Number = int
Numbers = tuple[int, ...]
Day = date | None
Moment = datetime | None
Mapping = dict[str, Any]
Bytes = Annotated[bytes, Meta(max_length=8)]
Anything = Any
Choice = Literal["a", None]
Place = Point | None
Truth = bool | UnsetType
LEFT = UNSET
make = msgspec.field


class Shadows(Event, topic="awkward.shadows", key="str"):
    """Fields that are called like types."""

    str: Text
    int: Number = 1
    list: Numbers = (1, 2)
    date: Day = None
    datetime: Moment = None
    field: Mapping = make(default_factory=dict)
    Meta: Bytes = b"\x00\xff"
    Any: Anything = None
    Event: Choice = None
    Point: Place = None
    UNSET: Truth = LEFT
    box: Box | None = None


class Defaults(Event, topic="awkward.defaults", version=2, omit_defaults=True):
    point: Point = Point(x=1)
    kind: Kind = Kind.class_
    level: Level = Level.LOW
    when: datetime = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
    local: datetime = datetime(2026, 1, 2)
    day: date = date(2026, 1, 2)
    clock: time = time(1, 2, 3)
    took: timedelta = timedelta(days=-1, microseconds=5)
    price: Decimal = Decimal("1.50")
    ident: UUID = UUID(int=1)
    data: bytes = b"'\""
    words: frozenset[str] = frozenset({"b", "a"})
    one: tuple[int, ...] = (1,)
    pair: tuple[int, Kind] = (1, Kind.SAME)
    numbers: tuple[date, ...] = (date(2026, 1, 2),)
    several: int | datetime | list[int] | None = datetime(2026, 1, 2)
    anything: Any = "x"
    text: str = HOSTILE
    price_or_none: Annotated[Decimal | None, Meta(description=HOSTILE)] = Decimal("0.1")


class Names(Event, topic="awkward.names", key="class_", rename="kebab", forbid_unknown_fields=True):
    class_: str
    größe: int
    _private: int = 0
    other_: str = msgspec.field(name="a b'c", default=HOSTILE)
    nothing: str = msgspec.field(name="", default="")
    digit: str = msgspec.field(name="1st", default="")
    dunder: str = msgspec.field(name="__init__", default="")


class Deep(Event, topic="awkward.deep", tag="deep"):
    tree: Node
    forest: dict[Level, list[Node | Leaf]]
    tagged: Tagged
    boxes: Annotated[list[Box], Meta(min_length=1, extra_json_schema={"x-unit": HOSTILE})]
    email: Annotated[str, Meta(extra_json_schema={"format": "email"}, examples=["a@b"])]
    keys: dict[date, dict[float, dict[Kind | int, bool]]]
    counted: dict[Annotated[int, Meta(ge=0, multiple_of=2)], int]
    short: dict[Annotated[str, Meta(max_length=3)], None]
    sets: set[tuple[int, str]]
    points: frozenset[Point]
    data: Annotated[bytes, Meta(min_length=2, max_length=4)]
    floats: Annotated[float, Meta(gt=0.5, le=2)]
    self: "Deep | None" = None


Deep.__doc__ = HOSTILE

EVENTS: list[type[Event]] = [Shadows, Defaults, Names, Deep]

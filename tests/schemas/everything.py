"""An event type with a field of every kind that msgspec knows."""

import enum
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NamedTuple, NotRequired, TypedDict, TypeVar
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from pgbus import Event

T = TypeVar("T")


class Colour(enum.Enum):
    """What is seen."""

    RED = "red"
    BLUE = "blue"


class Size(enum.IntEnum):
    SMALL = 1
    LARGE = 2


@dataclass
class Point:
    x: float
    y: float = 0.0


class Pair(NamedTuple):
    left: int
    right: str = ""


class Options(TypedDict):
    verbose: bool
    level: NotRequired[int]


class Page(Struct, Generic[T]):
    items: list[T]
    next: str | None = None


class Cat(Struct, tag="cat", tag_field="kind"):
    lives: int = 9


class Dog(Struct, tag="dog", tag_field="kind"):
    friends: "list[Cat | Dog]" = []


class Row(Struct, array_like=True):
    a: int
    b: str = "b"
    c: float | None = None


class Strict(Struct, forbid_unknown_fields=True, omit_defaults=True):
    only: str = ""


class Everything(Event, topic="tests.everything", version=3, key="text", rename="camel"):
    """One of each."""

    text: str
    whole_number: int
    fraction: float
    truth: bool
    nothing: None
    anything: Any
    raw: msgspec.Raw
    data: bytes
    moment: datetime
    aware: Annotated[datetime, Meta(tz=True)]
    naive: Annotated[datetime, Meta(tz=False)]
    day: date
    clock: time
    took: timedelta
    ident: UUID
    price: Decimal
    colour: Colour
    size: Size
    word: Literal["a", "b"]
    digit: Literal[1, 2]
    bounded: Annotated[int, Meta(ge=1, lt=10, multiple_of=3)]
    short: Annotated[str, Meta(min_length=1, max_length=9, pattern="^[a-z]+$")]
    few: Annotated[list[int], Meta(max_length=3, description="Not many.")]
    names: frozenset[str]
    numbers: tuple[int, ...]
    mixed: tuple[int, str]
    by_name: dict[str, int]
    by_number: dict[int, Point]
    by_colour: dict[Colour, int]
    bare: dict[str, Any]
    listed: list[Any]
    point: Point
    pair: Pair
    options: Options
    page: Page[int]
    pets: list[Cat | Dog]
    row: Row
    strict: Strict
    maybe: int | None
    several: int | str | list[int] | None
    defaulted: int = 7
    optional: str | None = None
    unset: int | UnsetType = UNSET
    made: list[str] = msgspec.field(default_factory=list)
    renamed: int = msgspec.field(name="otherwise", default=0)
    place: tuple[int, int] = (0, 0)

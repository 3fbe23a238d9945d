"""What changes a fingerprint, what does not, and that releases of msgspec do not."""

import enum
import subprocess
import sys
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
import pytest

from pgbus import Event
from pgbus.core.fingerprint import fingerprint
from pgbus.core.schema import describe, json_schema
from tests.schemas.everything import Everything

ROOT = Path(__file__).parents[2]
EVERYTHING = "tests.schemas.everything"
# The fingerprint of tests.schemas.everything, the same for ever. A change of it means that every
# registry in the world would refuse types that nobody changed.
KNOWN = "4544fe076bf38fa1ff92719c533cbbbd606fc940a7e2e6cb11014bdcc864a9bb"
RELEASES = ("0.20.0", "0.21.1")


def of(kind: Any) -> str:
    return fingerprint(json_schema(kind))


def struct(**fields: Any) -> Any:
    """Make a struct; a value ``(type, default)`` has a default."""
    pairs = [(name, *(f if isinstance(f, tuple) else (f,))) for name, f in fields.items()]
    return msgspec.defstruct("S", pairs, kw_only=True)


def test_the_fingerprint_is_what_it_always_was() -> None:
    assert describe(Everything).fingerprint == KNOWN


@pytest.mark.parametrize("release", RELEASES)
def test_releases_of_msgspec_make_no_difference(release: str, tmp_path: Path) -> None:
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(tmp_path),
    ]
    got = subprocess.run([*pip, f"msgspec=={release}"], capture_output=True, text=True, check=False)
    if got.returncode:
        pytest.skip(f"pip cannot install msgspec {release} here")
    code = (
        "import msgspec, sys; sys.path.insert(0, sys.argv[2])\n"
        "from pgbus.core.schema import describe\n"
        f"from {EVERYTHING} import Everything\n"
        "print(msgspec.__version__, describe(Everything).fingerprint)"
    )
    # Ahead of the installed release, which -P and a cleared PYTHONPATH would find first.
    run = subprocess.run(
        [sys.executable, "-c", code, release, str(ROOT)],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.stdout.split() == [release, KNOWN], run.stderr


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class First(msgspec.Struct, tag=True):
    x: int


class Second(msgspec.Struct, tag=True):
    y: "First | Second | None" = None


class Tree(msgspec.Struct):
    children: "list[Tree]" = []


class Bush(msgspec.Struct):
    """The same in two classes."""

    children: "list[Twig]" = []


class Twig(msgspec.Struct):
    children: list[Bush] = []


TITLE = msgspec.Meta(title="A", description="B")
AT_LEAST = msgspec.Meta(ge=0)
MORE = msgspec.Meta(gt=0)
AT_MOST_4 = Annotated[bytes, msgspec.Meta(max_length=4)]
AT_MOST_6 = Annotated[bytes, msgspec.Meta(max_length=6)]
MADE: Any = msgspec.field(default_factory=list)
ROW = msgspec.defstruct("R", [("x", int), ("y", int)], array_like=True)
STRICT = msgspec.defstruct("S", [("x", int)], forbid_unknown_fields=True)

SAME: list[tuple[str, Any, Any]] = [
    ("order of fields", struct(a=int, b=str), struct(b=str, a=int)),
    ("order of a union", struct(a=int | str | None), struct(a=None | str | int)),
    ("a union in a union", struct(a=int | (str | None)), struct(a=(int | None) | str)),
    ("order of values", struct(a=Literal["x", "y"]), struct(a=Literal["y", "x"])),
    ("an enumeration", struct(a=Colour), struct(a=Literal["blue", "red"])),
    ("null among values", struct(a=Literal["x", None]), struct(a=Literal["x"] | None)),
    ("names of classes", struct(a=struct(x=int)), struct(a=msgspec.defstruct("T", [("x", int)]))),
    ("what people read", struct(a=Annotated[int, TITLE]), struct(a=int)),
    ("examples", struct(a=Annotated[int, msgspec.Meta(examples=[1])]), struct(a=int)),
    ("kinds of lists", struct(a=list[int]), struct(a=tuple[int, ...])),
    ("a class and its circle", Tree, Bush),
    ("a default that was made", struct(a=(list[int], MADE)), struct(a=(tuple[int, ...], ()))),
    ("floats that are whole", struct(a=(float, 1.0)), struct(a=(float, 1))),
]  # fmt: skip

OTHER: list[tuple[str, Any, Any]] = [
    ("another type", struct(a=int), struct(a=float)),
    ("text and a moment", struct(a=str), struct(a=datetime)),
    ("moments", struct(a=Annotated[datetime, msgspec.Meta(tz=True)]), struct(a=datetime)),
    ("a date", struct(a=date), struct(a=datetime)),
    ("keys of a mapping", struct(a=dict[str, int]), struct(a=dict[int, int])),
    ("a mapping and nothing", struct(a=dict[str, Any]), struct(a=struct())),
    ("bytes", struct(a=bytes), struct(a=str)),
    ("how many bytes", struct(a=AT_MOST_4), struct(a=AT_MOST_6)),
    ("keys that no text is", struct(a=dict[bool, int]), struct(a=dict[str, int])),
    ("text and a decimal", struct(a=Decimal), struct(a=str)),
    ("null", struct(a=int), struct(a=int | None)),
    ("a default", struct(a=int), struct(a=(int, 1))),
    ("another default", struct(a=(int, 1)), struct(a=(int, 2))),
    ("a name", struct(a=int), struct(b=int)),
    ("a renamed field", struct(a_b=int), msgspec.defstruct("S", [("a_b", int)], rename="camel")),
    ("one more field", struct(a=int), struct(a=int, b=(int, 1))),
    ("a value", struct(a=Literal["x"]), struct(a=Literal["x", "y"])),
    ("a bound", struct(a=int), struct(a=Annotated[int, AT_LEAST])),
    ("another bound", struct(a=Annotated[int, AT_LEAST]), struct(a=Annotated[int, MORE])),
    ("a pattern", struct(a=str), struct(a=Annotated[str, msgspec.Meta(pattern="^x")])),
    ("a place in a tuple", struct(a=tuple[int, str]), struct(a=tuple[str, int])),
    ("its length", struct(a=tuple[int, int]), struct(a=tuple[int, ...])),
    ("an array", struct(x=int), msgspec.defstruct("S", [("x", int)], array_like=True)),
    ("what a place is", ROW, msgspec.defstruct("R", [("y", int), ("x", int)], array_like=True)),
    ("unknown fields", struct(x=int), STRICT),
    ("a tag", struct(x=int), First),
    ("a member of a union", struct(a=First | None), struct(a=First | Second | None)),
    ("deep down", struct(a=list[struct(b=int)]), struct(a=list[struct(b=str)])),  # type: ignore[misc]
    ("what is a set", struct(a=frozenset[int]), struct(a=list[int])),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), [pair[1:] for pair in SAME], ids=[p[0] for p in SAME])
def test_what_does_not_count(one: Any, other: Any) -> None:
    assert of(one) == of(other)


@pytest.mark.parametrize(("one", "other"), [pair[1:] for pair in OTHER], ids=[p[0] for p in OTHER])
def test_what_counts(one: Any, other: Any) -> None:
    assert of(one) != of(other)


def test_documentation_and_the_key_do_not_count() -> None:
    class Plain(Event, topic="a", key="x"):
        x: int

    class Told(Event, topic="a"):
        """What it is."""

        x: int

    assert describe(Plain).fingerprint == describe(Told).fingerprint
    assert (describe(Plain).key, describe(Told).key) == ("x", None)


def test_a_default_that_json_does_not_have_is_none() -> None:
    kind = struct(most=(float, float("inf")), mean=(float | None, float("nan")), least=(float, 0.0))
    properties = json_schema(kind)["$defs"]["S"]["properties"]
    assert ["default" in node for node in properties.values()] == [False, False, True]


def test_defaults_are_written_as_they_would_be_sent() -> None:
    kind = struct(
        when=(datetime, datetime(2026, 1, 2, tzinfo=UTC)),
        at=(time, time(1, 2)),
        took=(timedelta, timedelta(seconds=90)),
        price=(Decimal, Decimal("1.50")),
        id=(UUID, UUID(int=1)),
        colours=(frozenset[str], frozenset({"c", "a", "b"})),
        colour=(Colour, Colour.RED),
    )
    properties = json_schema(kind)["$defs"]["S"]["properties"]
    assert {name: node["default"] for name, node in properties.items()} == {
        "when": "2026-01-02T00:00:00Z",
        "at": "01:02:00",
        "took": "PT90S",
        "price": "1.50",
        "id": "00000000-0000-0000-0000-000000000001",
        "colours": ["a", "b", "c"],
        "colour": "red",
    }

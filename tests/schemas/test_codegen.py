"""Generated modules: the same types, clean for type checkers, the same text every time."""

import copy
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import util
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgbus import ConfigurationError, Event, InvalidTopic
from pgbus.core.codegen import check_module, write_module
from pgbus.core.schema import EventSchema, describe
from tests.schemas.awkward import EVENTS
from tests.schemas.everything import Everything
from tests.schemas.kinds import event
from tests.schemas.test_fit import Kind, kinds

ROOT = Path(__file__).parents[2]


def stored(kind: Any) -> EventSchema:
    """Return a type's schema as the registry gives it back."""
    made = describe(kind)
    document = json.loads(msgspec.json.encode(made.document))
    return EventSchema(made.topic, made.version, made.name, document, made.fingerprint)


def described(kind: type[Event]) -> list[str | None]:
    """Return what people read of a type's definitions."""
    definitions = describe(kind).document["$defs"]
    return [node.get("description") for node in definitions.values()]


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Any]:
    """Import the text of a module."""
    names: list[str] = []

    def loaded(text: str) -> ModuleType:
        file = tmp_path / f"generated_{len(names)}.py"
        file.write_text(text, encoding="utf-8")
        spec = util.spec_from_file_location(f"tests_{file.stem}", file)
        assert spec is not None
        assert spec.loader is not None
        module = util.module_from_spec(spec)
        names.append(module.__name__)
        sys.modules[module.__name__] = module
        spec.loader.exec_module(module)
        return module

    yield loaded
    for name in names:
        del sys.modules[name]


@pytest.mark.parametrize("kind", [Everything, *EVENTS], ids=lambda kind: str(kind.__name__))
def test_the_types_that_come_out_are_those_that_went_in(kind: type[Event], load: Any) -> None:
    text = write_module([stored(kind)])
    made = getattr(load(text), kind.__name__)
    assert describe(made).fingerprint == describe(kind).fingerprint
    assert describe(made).key == describe(kind).key
    assert describe(made).label == describe(kind).label
    assert described(made) == described(kind)
    # And once more, from what came out.
    assert write_module([stored(made)]) == text


def test_one_module_for_all_is_the_same_whatever_the_order() -> None:
    chosen = [stored(kind) for kind in (Everything, *EVENTS)]
    text = write_module(chosen)
    assert write_module(chosen[::-1]) == text
    # One of Everything, one of the others; a field has the name itself.
    assert re.findall(r"^class (Point\w*)", text, re.MULTILINE) == ["Point2", "Point3"]


def test_it_reads_and_writes_the_same_bodies(load: Any) -> None:
    defaults, shadows = EVENTS[1], EVENTS[0]
    module = load(write_module([stored(defaults), stored(shadows)]))
    for kind, body in (
        (defaults, b'{"level":1}'),
        (shadows, b'{"str":"a","list":[3],"Point":{"x":1}}'),
    ):
        made = getattr(module, kind.__name__)
        ours, theirs = (msgspec.json.decode(body, type=one) for one in (kind, made))
        assert msgspec.json.decode(msgspec.json.encode(theirs), type=kind) == ours
    assert module.Defaults().kind is module.Kind.class_
    assert module.Defaults().point == module.Point2(x=1, y=0)


def test_mypy_and_the_interpreter_take_it_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "generated_events.py"
    file.write_text(write_module([stored(kind) for kind in (Everything, *EVENTS)]))
    user = tmp_path / "user.py"
    user.write_text(
        "from generated_events import Colour, Defaults, Names, Shadows\n"
        "one = Shadows(str='a')\n"
        "text: str = one.str\n"
        "names = Names(class_='a', größe=1)\n"
        "assert Defaults().price_or_none is not None\n"
        "print(Colour.RED.value, one.list, names.other_ == Defaults().text)\n"
    )
    # A cache of its own: with other settings than the project's, the two would undo each other.
    cache = str(ROOT / ".cache" / "mypy")
    mypy = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir", cache]
    checked = subprocess.run(
        [*mypy, str(user), str(file)],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    ran = subprocess.run(
        [sys.executable, "-W", "error", user], capture_output=True, text=True, check=False
    )
    assert ran.stdout == "red (1, 2) True\n", ran.stderr


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(kinds, st.data())
def test_whatever_the_type(one: Kind, data: st.DataObject) -> None:
    fields: list[Any] = [("a", one.type)]
    if data.draw(st.booleans()):
        default = data.draw(one.values)
        given_default = default
        if isinstance(default, (list, dict, msgspec.Struct)):
            given_default = msgspec.field(default_factory=lambda: default)
        fields.append(("b", one.type, given_default))
    schema = stored(event(*fields))
    write_module([schema])  # which checks what it wrote


def test_versions_and_topics_have_names_of_their_own() -> None:
    def names(*chosen: Any) -> list[str]:
        text = write_module([stored(one) for one in chosen])
        return [line for line in text.splitlines() if line.startswith("class ")]

    first, second = event(("a", int)), event(("a", str), version=2)
    assert names(second, first) == [
        'class OrderCreatedV1(Event, topic="orders.created", version=1):',
        'class OrderCreated(Event, topic="orders.created", version=2):',
    ]
    numbered = event(("a", int), name="OrderCreatedV1")
    assert names(numbered, second)[0].startswith("class OrderCreatedV1(")
    assert names(numbered)[0].startswith("class OrderCreatedV1(")
    users = event(("a", int), topic="users.created-again")
    assert [line.partition("(")[0] for line in names(first, second, users)] == [
        "class OrdersCreatedV1",
        "class OrdersCreated",
        "class UsersCreatedAgain",
    ]
    assert names(event(("a", int), name="list"))[0].startswith("class list_2(")


def test_equal_parts_are_shared_and_others_are_told_apart() -> None:
    part = msgspec.defstruct("Part", [("x", int)])
    other = msgspec.defstruct("Part", [("x", str)])
    text = write_module(
        [
            stored(event(("part", part), topic="a", name="A")),
            stored(event(("part", part), topic="b", name="B")),
            stored(event(("part", other), topic="c", name="C")),
        ]
    )
    assert text.count("class Part(") == 1
    assert text.count("class Part2(") == 1
    assert text.count("    part: Part\n") == 2
    assert text.count("    part: Part2\n") == 1


def test_parts_are_told_apart_below_a_field_that_is_called_like_a_keyword() -> None:
    def line(price: Any) -> Any:
        inner = msgspec.defstruct("Price", [("value", price)])
        return msgspec.defstruct("Line", [("default", inner), ("enum", inner)])

    one = event(("line", line(int)), topic="a", name="A")
    other = event(("line", line(str)), topic="b", name="B")
    text = write_module([stored(one), stored(other)])
    assert re.findall(r"^class (Line\d?|Price\d?)\(", text, re.MULTILINE) == [
        "Line",
        "Price",
        "Line2",
        "Price2",
    ]


def altered(**changes: Any) -> EventSchema:
    """Return a schema as a stranger may have recorded it."""
    made = copy.deepcopy(stored(event(("a", int), ("b", int, 1))))
    made.document["$defs"]["OrderCreated"].update(changes)
    return made


@pytest.mark.parametrize(
    ("properties", "reason"),
    [
        ({"a": {"type": "object", "properties": {}}}, "of type 'object' in place"),
        ({"a": {"type": ["integer", "null"]}}, "of type ['integer', 'null'] in place"),
        ({"a": {"enum": [1.5]}}, "neither text nor integers"),
        ({"a": False}, "nothing that fits it"),
        ({"a": {"type": "integer", "minimum": "x"}}, "`ge` must be an int"),
        ({"a": {"$ref": "#/$defs/Nowhere"}}, "Nowhere"),
        ({"a": {"type": "string", "default": "x", "format": "date"}}, "make no module (ValueError"),
        ({"a": {"type": "integer"}, "b": {"type": "string"}}, "cannot be written in Python"),
    ],
)
def test_what_cannot_be_written_is_a_clear_error(properties: Any, reason: str) -> None:
    schema = altered(properties=properties, required=[])
    with pytest.raises(ConfigurationError) as caught:
        write_module([schema])
    assert reason in str(caught.value)


EVIL = '"); import os; os.abort() # \\'
HOSTILE: list[dict[str, Any]] = [
    {"properties": {EVIL: {"type": "integer"}}, "required": [EVIL]},
    {"properties": {f"{EVIL}\n{EVIL}": {"type": "integer"}}},
    {"properties": {"a": {"type": "integer", "x-pgbus-attribute": EVIL}}},
    {"properties": {"a": {"type": "integer", "x-pgbus-attribute": "a=1\nimport os\nos.abort()"}}},
    {"properties": {"a": {"type": "integer", "title": f"{EVIL}\n", "description": EVIL}}},
    {"properties": {"a": {"type": "integer", EVIL: {EVIL: [EVIL]}}}},
    {"properties": {"a": {"type": "string", "pattern": EVIL, "default": EVIL}}},
    {"properties": {"a": {"type": "integer", "minimum": EVIL}}},
    {"properties": {"a": {"type": "string", "format": "date", "default": EVIL}}},
    {"properties": {"a": {"$ref": f"#/$defs/{EVIL}"}}},
    {"properties": {"a": {"enum": [EVIL, f"{EVIL}\n"], "default": EVIL}}},
    {"properties": {}, "description": f'{EVIL}\n"""\n{EVIL}\n"'},
    {"properties": {}, "x-pgbus-tag": EVIL, "required": [EVIL]},
    {"properties": {EVIL: {"enum": [EVIL]}}, "x-pgbus-tag": EVIL},
    {"type": "array", "prefixItems": [{}], "x-pgbus-elements": [EVIL]},
    {"type": EVIL, "properties": {}},
]


@pytest.mark.parametrize("changes", HOSTILE)
def test_nothing_of_a_schema_is_taken_for_code(changes: dict[str, Any]) -> None:
    made = altered(**{"required": [], **changes})
    made.document["$defs"][EVIL] = {"enum": [EVIL, f"{EVIL}2"], "x-pgbus-members": [EVIL, "b"]}
    made.document["x-pgbus-key"] = EVIL
    for name in (EVIL, f"X\n{EVIL}"):
        schema = EventSchema(EVIL, 1, name, made.document, "not this one")
        # Nothing runs but what was meant to; whether it comes to the end differs.
        with pytest.raises((ConfigurationError, InvalidTopic)):
            write_module([schema])


def test_a_module_that_says_something_else_is_found_out() -> None:
    text = write_module([stored(event(("a", int)))])
    with pytest.raises(ConfigurationError, match="a: integer became string"):
        check_module(
            text.replace("a: int", "a: str"), [("OrderCreated", stored(event(("a", int))))]
        )

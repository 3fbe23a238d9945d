"""Event types: what their class keywords mean and what they refuse."""

import enum
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pytest

from pgbus.errors import ConfigurationError, InvalidTopic, PayloadError
from pgbus.model.event import MAX_VERSION, Event, EventMeta, key_of


class OrderEvent(Event, key="order_id"):
    order_id: str


class Created(OrderEvent, topic="orders.created", version=2):
    total: int


class Audited(OrderEvent, topic="orders.audited", key=None):
    pass


class Moved(OrderEvent, topic="orders.moved", key="shelf"):
    shelf: int | None = None


class Colour(enum.Enum):
    RED = "red"


class Painted(Event, topic="paint", key="colour"):
    colour: Any


def test_keywords() -> None:
    assert (Created.__event_topic__, Created.__event_version__) == ("orders.created", 2)
    assert OrderEvent.__event_topic__ is None
    assert OrderEvent.__event_version__ == 1
    assert Event.__event_key__ is None


def test_the_key_is_inherited_and_can_be_taken_back() -> None:
    assert Created.__event_key__ == "order_id"
    assert key_of(Created(order_id="7", total=3)) == "7"
    assert Audited.__event_key__ is None
    assert key_of(Audited(order_id="7")) is None
    assert Moved.__event_key__ == "shelf"
    assert key_of(Moved(order_id="7", shelf=4)) == "4"
    assert key_of(Moved(order_id="7")) is None


def test_topic_and_version_are_not_inherited() -> None:
    class Special(Created):
        reason: str

    assert Special.__event_topic__ is None
    assert Special.__event_version__ == 1
    assert Special.__event_key__ == "order_id"


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (Colour.RED, "red"),
        (UUID(int=1), str(UUID(int=1))),
        (True, "True"),
        (17, "17"),
        (Decimal("1.50"), "1.50"),
        (datetime(2026, 1, 31, tzinfo=UTC), "2026-01-31 00:00:00+00:00"),
        (None, None),
        (msgspec.UNSET, None),
    ],
)
def test_keys_are_text(value: Any, key: str | None) -> None:
    assert key_of(Painted(colour=value)) == key


@pytest.mark.parametrize(
    "value", [[1], (1,), {"a": 1}, {1}, b"red", Created(order_id="7", total=3)]
)
def test_what_is_no_key(value: Any) -> None:
    with pytest.raises(
        PayloadError, match=f"Painted: its key 'colour' is a {type(value).__name__}"
    ):
        key_of(Painted(colour=value))


def test_events_are_frozen_and_keyword_only() -> None:
    event = Created(order_id="7", total=3)
    with pytest.raises(AttributeError):
        event.total = 4  # type: ignore[misc]
    with pytest.raises(TypeError):
        Created("7", 3)  # type: ignore[call-arg]
    assert msgspec.json.encode(event) == b'{"order_id":"7","total":3}'


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        ({"key": "missing"}, "'missing' names no field"),
        ({"version": 0}, "version 0"),
        ({"version": -1}, "version -1"),
        ({"version": MAX_VERSION + 1}, "version"),
        ({"version": True}, "True is no integer"),
        ({"version": "1"}, "'1' is no integer"),
        ({"frozen": False}, "always frozen"),
        ({"kw_only": False}, "always kw_only"),
        ({"topik": "a.b"}, "event Wrong: 'topik' is an invalid keyword"),
    ],
)
def test_what_is_refused(keywords: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        EventMeta("Wrong", (Event,), {}, **keywords)


@pytest.mark.parametrize(
    "topic", ["", "a..b", "orders.*", "a b", "a\n", "é", "a" * 256, 17, b"a", ["a"]]
)
def test_topics_that_are_refused(topic: Any) -> None:
    with pytest.raises(InvalidTopic):
        EventMeta("Wrong", (Event,), {}, topic=topic)

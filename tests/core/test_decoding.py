"""Decoding: whatever a client wrote, it is read or refused with the place of its fault."""

import contextlib
import enum
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgbus.core.decoding import decode, read_headers, read_kind
from pgbus.errors import PayloadError
from pgbus.model.envelope import Incoming, Outgoing
from tests.core.samples import ENCODER, MARKER, NEW_ID, NOW, Created, json_values

NOTHING = Incoming(None, None, None, None, None, None, None, {})


class TestReadHeaders:
    @pytest.mark.parametrize("own", [{}, {"Tenant": "1"}])
    def test_what_was_written(self, own: dict[str, str]) -> None:
        encoded = ENCODER.encode(
            Outgoing("t", Created(order_id="7"), headers=own),
            new_id=NEW_ID,
            time=NOW,
            correlation_id="c-1",
            causation_id="c-2",
        )
        expected = Incoming(
            id=NEW_ID,
            topic="t",
            version=3,
            key="7",
            correlation_id="c-1",
            causation_id="c-2",
            published_at=datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC),
            headers=own,
            source="shop",
        )
        assert read_headers(encoded.headers) == expected
        assert read_headers(encoded.headers.encode()) == expected

    @pytest.mark.parametrize(
        "raw",
        [
            None,
            "",
            "null",
            "1",
            "[]",
            '"x"',
            "{}",
            "{",
            b"\xff",
            '{"id":1,"pgbus-topic":2,"type":[],"pgbus-version":"1","time":"soon","x-pgmq-group":null}',
            '{"id":"x","pgbus-version":0,"time":"2026-01-31T12:00:00","correlationid":{}}',
            '{"pgbus-version":1.5,"pgbus-dead":{"error":"x"}}',
            '{"pgbus-version":true,"id":null}',
            "[" * 100_000,
            '{"a":' * 100_000,
        ],
    )
    def test_what_says_nothing(self, raw: str | bytes | None) -> None:
        assert read_headers(raw) == NOTHING

    def test_the_kind_alone(self) -> None:
        encoded = ENCODER.encode(Outgoing("t", Created(order_id="7")), new_id=NEW_ID, time=NOW)
        assert read_kind(encoded.headers) == ("t", 3)
        assert read_kind('{"type":"a"}') == ("a", 0)
        assert read_kind('{"type":"a","pgbus-topic":null,"pgbus-version":2}') == ("a", 2)
        assert read_kind('{"type":"a","pgbus-topic":""}')[0] == ""
        for bad in ("", "null", "[]", '{"pgbus-topic":1}', '{"type":null}'):
            with pytest.raises(msgspec.MsgspecError):
                read_kind(bad)

    def test_a_foreign_message(self) -> None:
        found = read_headers('{"type":"orders.created","id":"nope","a":[1,{"b":null}]}')
        assert found == msgspec.structs.replace(
            NOTHING, topic="orders.created", headers={"a": [1, {"b": None}]}
        )

    @pytest.mark.parametrize("group", ["7", "1.50", "true", "[1, 2]", '{"a": null}'])
    def test_a_group_that_is_no_string_is_its_json_text(self, group: str) -> None:
        found = read_headers(f'{{"x-pgmq-group":{group},"id":"nope"}}')
        assert found == msgspec.structs.replace(NOTHING, key=group)

    def test_a_foreign_header_that_cannot_be_decoded_spoils_the_foreign_ones_alone(self) -> None:
        found = read_headers('{"type":"a","x-pgmq-group":"k","b":1,"c":1e400}')
        assert found == msgspec.structs.replace(NOTHING, topic="a", key="k")

    def test_the_topic_is_pgbus_own_before_the_type(self) -> None:
        assert read_headers('{"type":"a","pgbus-topic":"b"}').topic == "b"
        assert read_headers('{"type":"a","pgbus-topic":1}').topic == "a"

    @given(
        st.dictionaries(
            st.sampled_from(
                ["id", "type", "time", "pgbus-topic", "pgbus-version", "x-pgmq-group", "source"]
            )
            | st.text(),
            json_values | st.uuids().map(str) | st.datetimes().map(str),
        )
        | json_values
    )
    @settings(max_examples=300)
    def test_any_json_can_be_read(self, value: Any) -> None:
        raw = msgspec.json.encode(value)
        found = read_headers(raw)
        with contextlib.suppress(msgspec.MsgspecError):
            topic, version = read_kind(raw)
            assert topic == (found.topic or "")
            assert version == found.version or version < 1
        assert found.id is None or isinstance(found.id, UUID)
        for text in (found.topic, found.key, found.correlation_id, found.causation_id):
            assert text is None or isinstance(text, str)
        assert found.version is None or (type(found.version) is int and found.version >= 1)
        assert found.published_at is None or found.published_at.utcoffset() is not None
        if isinstance(value, dict):
            for name, own in found.headers.items():
                assert value[name] == own

    @given(st.binary())
    def test_any_bytes_can_be_read(self, raw: bytes) -> None:
        read_headers(raw)


class Mute(msgspec.ValidationError):
    def __str__(self) -> str:
        return str(self.args[0])


class Picky(msgspec.Struct):
    a: int = 0

    def __post_init__(self) -> None:
        if self.a == 1:
            raise ValueError(MARKER)
        if self.a == 2:
            raise KeyError(MARKER)
        if self.a == 3:
            raise Mute


class Mood(enum.Enum):
    GOOD = "good"


class Moody(msgspec.Struct):
    mood: list[Mood]


class Day(msgspec.Struct):
    day: datetime


class TestDecode:
    @pytest.mark.parametrize(
        ("kind", "body", "said"),
        [
            (Created, "{}", "Object missing required field `order_id`"),
            (Created, '{"order_id":7}', r"Expected `str \| null`, got `int` - at `\$.order_id`"),
            (Created, "[]", "Expected `object`, got `array`"),
            (Created, None, "NULL"),
            (Created, "", "Input data was truncated"),
            (Created, b'{"order_id":"\xff"}', "not UTF-8"),
            (Created, '{"order_id":marker-7f3a}', "malformed"),
            (Created, '{"order_id":"7","total":"marker-7f3a"}', r"- at `\$.total`"),
            (Moody, '{"mood":["good","marker-7f3a"]}', r"not one of those.* - at `\$.mood\[1\]`"),
            (Day, '{"day":"marker-7f3a"}', r"- at `\$.day`"),
            (Picky, '{"a":1}', "ValidationError"),
            (Picky, '{"a":2}', "KeyError"),
            (Picky, '{"a":3}', "Mute|IndexError"),
            (Any, "1e400", "Number out of range"),
            (Any, "9" * 5000, "Integer value out of range"),
            (Any, "[" * 10_000 + "]" * 10_000, "nested too deep"),
            (int, "9223372036854775808" * 300, "out of range"),
        ],
    )
    def test_what_does_not_fit(self, kind: Any, body: str | bytes | None, said: str) -> None:
        with pytest.raises(PayloadError, match=said) as caught:
            decode(msgspec.json.Decoder(kind), body)
        assert MARKER not in str(caught.value)
        assert caught.value.__cause__ is None

    def test_what_does(self) -> None:
        decoder = msgspec.json.Decoder(Created)
        assert decode(decoder, '{"order_id":null,"more":1}') == Created(order_id=None)
        assert decode(decoder, b'{"order_id":"7","total":"1.50"}') == Created(
            order_id="7", total=Decimal("1.50")
        )

    @given(st.binary() | st.text().filter(lambda text: text.isascii()))
    def test_nothing_else_is_raised(self, body: bytes | str) -> None:
        for kind in (Any, Created, Picky):
            try:
                decode(msgspec.json.Decoder(kind), body)
            except PayloadError:
                continue

"""Encoding: what is stored, and that nothing jsonb refuses or cannot give back gets that far."""

import dataclasses
import enum
import json
import math
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pgbus.core.decoding import decode
from pgbus.core.encoding import (
    MAX_BODY_CEILING,
    Encoded,
    Encoder,
    outgoing,
)
from pgbus.errors import ConfigurationError, InvalidTopic, PayloadError, PayloadTooLarge
from pgbus.model.config import MAX_DELAY
from pgbus.model.envelope import RESERVED, Outgoing
from pgbus.model.event import Event
from tests.core.samples import ENCODER, GIVEN_ID, MARKER, NEW_ID, NOW, Created, json_values


class Unkeyed(Event, topic="orders.seen"):
    pass


class Abstract(Event, key="order_id"):
    order_id: str


class Part(msgspec.Struct):
    value: Any


@dataclasses.dataclass
class Plain:
    value: Any


class Rate(enum.Enum):
    NONE = math.nan


class Opaque:
    def __repr__(self) -> str:
        return MARKER


def encode(payload: Any, encoder: Encoder = ENCODER, **options: Any) -> Encoded:
    return encoder.encode(Outgoing("t", payload, **options), new_id=NEW_ID, time=NOW)


def headers_of(encoded: Encoded) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(encoded.headers)
    return found


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth - 1):
        value = [value]
    return value


LONG_KEY = "k" * (2**20 + 1)


class TestHeaders:
    def test_of_an_event(self) -> None:
        encoded = ENCODER.encode(
            Created(order_id="7"),
            new_id=NEW_ID,
            time=NOW,
            correlation_id="c-1",
            causation_id="c-2",
        )
        assert headers_of(encoded) == {
            "id": str(NEW_ID),
            "source": "shop",
            "type": "orders.created",
            "time": NOW,
            "specversion": "1.0",
            "datacontenttype": "application/json",
            "pgbus-topic": "orders.created",
            "pgbus-version": 3,
            "correlationid": "c-1",
            "causationid": "c-2",
            "x-pgmq-group": "7",
        }
        assert encoded == Encoded(
            NEW_ID,
            "orders.created",
            "7",
            '{"order_id":"7","total":"0","note":null,"weight":null}',
            encoded.headers,
            None,
            given_id=False,
        )

    def test_of_another_payload(self) -> None:
        encoded = encode({"a": 1}, headers={"Tenant": "ä 1", "a.b": ""}, id=GIVEN_ID)
        found = headers_of(encoded)
        assert found.keys() == {
            "id",
            "source",
            "type",
            "time",
            "specversion",
            "datacontenttype",
            "pgbus-topic",
            "Tenant",
            "a.b",
        }
        assert found["id"] == str(GIVEN_ID)
        assert (encoded.id, encoded.given_id, encoded.key) == (GIVEN_ID, True, None)

    def test_an_event_under_another_topic_keeps_version_and_key(self) -> None:
        encoded = encode(Created(order_id="7"))
        assert encoded.topic == "t"
        assert headers_of(encoded)["pgbus-version"] == 3
        assert headers_of(encoded)["type"] == "t"
        assert encoded.key == "7"

    def test_an_explicit_key_wins(self) -> None:
        assert encode(Created(order_id="7"), key="8").key == "8"
        assert encode(Created(order_id=None), key="8").key == "8"
        assert encode(Created(order_id=None)).key is None
        assert ENCODER.encode(Unkeyed(), new_id=NEW_ID, time=NOW).key is None

    @pytest.mark.parametrize("key", ["k", "k" * 100_000, "ключ 🔑", "\x01\n\"'\\", " "])
    def test_keys(self, key: str) -> None:
        encoded = encode(None, key=key)
        assert encoded.key == key
        assert headers_of(encoded)["x-pgmq-group"] == key

    @pytest.mark.parametrize(
        ("key", "said"),
        [
            ("", "the key is empty"),
            ("a\0", "the key holds the character U"),
            ("\ud800", "the key holds a lone surrogate"),
            (7, "key is a str, not a int"),
            (b"k", "key is a str, not a bytes"),
            (LONG_KEY, "the key has 1048577 characters"),
        ],
    )
    def test_keys_that_are_refused(self, key: Any, said: str) -> None:
        with pytest.raises(PayloadError, match=f"^t: {said}"):
            encode(None, key=key)

    def test_an_empty_key_of_a_type_is_refused(self) -> None:
        with pytest.raises(PayloadError, match="key is empty"):
            encode(Created(order_id=""))

    @pytest.mark.parametrize("name", [*sorted(RESERVED), "pgbus-topic", "pgbus-", "pgbus-mine"])
    def test_reserved_names(self, name: str) -> None:
        with pytest.raises(PayloadError, match=f"header '{name}' is one that pgbus itself writes"):
            encode(None, headers={name: "x"})

    @pytest.mark.parametrize(
        ("headers", "said"),
        [
            ({1: MARKER}, "the name of a header is a str, not a int"),
            ({None: MARKER}, "the name of a header is a str, not a NoneType"),
            ({"a": 1}, "the header 'a' is a str, not a int"),
            ({"a": None}, "the header 'a' is a str, not a NoneType"),
            ({"a": b""}, "the header 'a' is a str, not a bytes"),
            ({"a": MARKER + "\0"}, "the header 'a' holds the character"),
            ({"a": MARKER + "\ud800"}, "the header 'a' holds a lone"),
            ({"\0": MARKER}, "the name of a header holds the character"),
            ({"\udfff": MARKER}, "the name of a header holds a lone"),
            ([("a", MARKER)], "headers are a mapping of str to str, not a list"),
            (MARKER, "headers are a mapping of str to str, not a str"),
        ],
    )
    def test_headers_that_are_refused(self, headers: Any, said: str) -> None:
        with pytest.raises(PayloadError, match=f"^t: {said}") as caught:
            encode(None, headers=headers)
        assert MARKER not in str(caught.value)

    def test_the_limit_is_exact(self) -> None:
        # {"a":"…"} takes 8 bytes around the value; "é" takes two.
        encode(None, headers={"a": "x" * 8184})
        encode(None, headers={"a": "é" * 4092})
        with pytest.raises(PayloadTooLarge, match="the headers have 8193 bytes of JSON; 8192"):
            encode(None, headers={"a": "x" * 8185})
        with pytest.raises(PayloadTooLarge, match="8193"):
            encode(None, headers={"a": "é" * 4092 + "x"})

    def test_empty_headers(self) -> None:
        assert encode(None, headers={}).headers == encode(None).headers


class Nowhere(tzinfo):
    def utcoffset(self, when: datetime | None, /) -> None:
        return None

    def dst(self, when: datetime | None, /) -> None:
        return None

    def tzname(self, when: datetime | None, /) -> None:
        return None


class TestDue:
    @pytest.mark.parametrize(
        ("delay", "due"),
        [
            (None, None),
            (0, None),
            (0.0, None),
            (timedelta(0), None),
            (1.5, timedelta(seconds=1.5)),
            (3, timedelta(seconds=3)),
            (timedelta(days=2), timedelta(days=2)),
            (MAX_DELAY, MAX_DELAY),
        ],
    )
    def test_delay(self, delay: Any, due: timedelta | None) -> None:
        assert encode(None, delay=delay).due == due

    def test_at(self) -> None:
        for zone in (UTC, timezone(timedelta(hours=-12))):
            at = datetime(9999, 12, 31, tzinfo=zone)
            assert encode(None, at=at).due == at

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"delay": -1}, "delay is not in 0 s to"),
            ({"delay": -0.1}, "delay is not in"),
            ({"delay": timedelta(microseconds=-1)}, "delay is not in"),
            ({"delay": math.nan}, "delay is not in"),
            ({"delay": math.inf}, "delay is not in"),
            ({"delay": 1e300}, "delay is not in"),
            ({"delay": 10**400}, "delay is not in"),
            ({"delay": timedelta.max}, "delay is not in"),
            ({"delay": True}, "not a bool"),
            ({"delay": "1"}, "not a str"),
            ({"at": datetime(2026, 1, 1)}, "no time zone"),
            ({"at": datetime(2026, 1, 1, tzinfo=Nowhere())}, "no time zone"),
            ({"at": 1700000000}, "at is a datetime, not a int"),
            ({"at": datetime(2026, 1, 1, tzinfo=UTC), "delay": 1}, "delay or at, not both"),
            ({"at": datetime(2026, 1, 1, tzinfo=UTC), "delay": 0}, "delay or at, not both"),
            ({"id": str(GIVEN_ID)}, "id is a UUID, not a str"),
        ],
    )
    def test_refused(self, options: dict[str, Any], said: str) -> None:
        with pytest.raises(ConfigurationError, match=f"^t: .*{said}"):
            encode(None, **options)


class TestTopics:
    @pytest.mark.parametrize("topic", ["", "a..b", "orders.*", "a\n", "é", "a" * 256, 7, None])
    def test_refused(self, topic: Any) -> None:
        with pytest.raises(InvalidTopic):
            ENCODER.encode(Outgoing(topic, 1), new_id=NEW_ID, time=NOW)

    @pytest.mark.parametrize("item", [Abstract(order_id="7"), {"a": 1}, "orders", None])
    def test_items_without_a_topic(self, item: Any) -> None:
        with pytest.raises(ConfigurationError, match="names no topic"):
            ENCODER.encode(item, new_id=NEW_ID, time=NOW)


class TestOutgoing:
    def test_a_topic_and_a_payload(self) -> None:
        assert outgoing("t", None, key="k") == Outgoing("t", None, "k")
        assert outgoing("t", Created(order_id="7")).topic == "t"

    def test_an_event(self) -> None:
        event = Created(order_id="7")
        made = outgoing(event, headers={"a": "b"}, delay=3, id=GIVEN_ID)
        expected = Outgoing("orders.created", event, headers={"a": "b"}, delay=3, id=GIVEN_ID)
        assert made == expected

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("t",), "there is no payload"),
            ((Created(order_id="7"), 1), "the topic is a Created"),
            ((Abstract(order_id="7"),), "Abstract names no topic"),
            (({"a": 1},), "a dict names no topic"),
            ((None,), "a NoneType names no topic"),
        ],
    )
    def test_refused(self, arguments: Any, said: str) -> None:
        with pytest.raises(ConfigurationError, match=said):
            outgoing(*arguments)


class TestEncoderSettings:
    @pytest.mark.parametrize(
        "settings",
        [
            {"max_body": 0},
            {"max_body": MAX_BODY_CEILING + 1},
            {"max_headers": 1},
            {"max_headers": 2**40},
            {"source": ""},
            {"source": "a\0"},
            {"source": "\ud800"},
        ],
    )
    def test_refused(self, settings: dict[str, Any]) -> None:
        with pytest.raises(ConfigurationError):
            Encoder(**{"source": "shop", **settings})


SMILE = r"\ud83d\ude00"
STORED: list[tuple[Any, str | None]] = [
    # (payload, JSON where it matters)
    (None, "null"),
    (7, "7"),
    ("text", '"text"'),
    ([], "[]"),
    ({}, "{}"),
    ([None, [None]], "[null,[null]]"),
    ("null", '"null"'),
    ({"null": None}, '{"null":null}'),
    ("NaN Infinity", '"NaN Infinity"'),
    (["NaN", "Infinity", Decimal(1)], None),
    ([None, b"\xcb\x7f\xf8"], None),
    ([None, 2**64], None),
    ([None, 0xCB7FF8], None),
    ("\x01\x1f\n", None),
    ("\\u0000", r'"\\u0000"'),
    ("\\\\u0000 \\ud800", None),
    ({"\\u0000": 1}, None),
    ("\x01\\u0000", r'"\u0001\\u0000"'),
    ("𝄞 é €", '"𝄞 é €"'),
    (2**63, "9223372036854775808"),
    (2**64, "18446744073709551616"),
    (-(2**64), None),
    (10**999, None),
    (1e308, "1e308"),
    (-1.7976931348623157e308, None),
    (5e-324, "5e-324"),
    (-0.0, "-0.0"),
    ("1e400", None),
    ("x,1e400,", None),
    ("x,1e400,[" + "1" * 2000, None),
    ("[" * 2000, None),
    ('"' + "[" * 2000 + "\\", None),
    ([["]" * 600, "[" * 600, '"', "\\"]] * 3, None),
    ([[]] * 2000, None),
    (nested(512), None),
    (msgspec.Raw(b' {"a": [1, 2.5e3]}\n'), ' {"a": [1, 2.5e3]}\n'),
    (msgspec.Raw(b'{"a":1,"a":2}'), '{"a":1,"a":2}'),
    (msgspec.Raw(b"1e308"), None),
    (msgspec.Raw(b"1E+308"), None),
    (msgspec.Raw(b"1e-1000"), None),
    (msgspec.Raw(b'{"a":1E+0308}'), None),
    ("5e-1234 ", '"5e-1234 "'),
    ("1-" * 1001, None),
    ("0e000", '"0e000"'),
    (msgspec.Raw(b"9" * 300 + b".5"), None),
    (msgspec.Raw(b"[" + b"1e99," * 150_000 + b"0]"), None),
    (msgspec.Raw(b"9" * 1000), None),
    (msgspec.Raw(b"0." + b"9" * 1000), None),
    (msgspec.Raw(('"' + SMILE + '"').encode()), None),
    (msgspec.Raw(rb'"\\ud800"'), None),
    (msgspec.Raw(rb'"\u00e9\/"'), None),
    (Part(Plain({"a": (1, {2})})), None),
    (Part(msgspec.UNSET), None),
]


@pytest.mark.parametrize(("payload", "text"), STORED, ids=range(len(STORED)))
def test_bodies(payload: Any, text: str | None) -> None:
    body = encode(payload).body
    assert text is None or body == text
    json.loads(body)


CYCLE: list[Any] = []
CYCLE.append(CYCLE)
NUL = "holds the character U"
SURROGATE = "holds a lone surrogate"
NOT_FINITE = "is NaN or infinite"
DEEP = "is nested deeper than 512"
REFUSED: list[tuple[Any, str]] = [
    # \u0000
    (MARKER + "\0", f"the payload {NUL}"),
    ({"a": {"b": ["x", MARKER + "\0"]}}, rf"the payload at \.a\.b\[1\] {NUL}"),
    ({"a": {MARKER + "\0": 1}}, rf"the payload at \.a\[…\] \(a key\) {NUL}"),
    (Part([Plain(MARKER + "\0")]), rf"the payload at \.value\[0\]\.value {NUL}"),
    (Created(order_id="1", note=MARKER + "\0"), rf"the payload at \.note {NUL}"),
    ("\\\0", NUL),
    ("\\\\\\u0000\\\0", NUL),
    (msgspec.Raw(rb'"marker-7f3a\u0000"'), f"the body {NUL}"),
    (msgspec.Raw(rb'{"\\\u0000":1}'), NUL),
    (msgspec.Raw(b'"a\0"'), "the body is not valid JSON"),
    ([memoryview(b"abcd")[::2]], r"the payload at \[0\] is a memoryview that"),
    # Surrogates
    ([MARKER + "\ud800"], rf"the payload at \[0\] {SURROGATE}"),
    ({"\udc00" + MARKER: 1}, rf"the payload at \[…\] \(a key\) {SURROGATE}"),
    (msgspec.Raw(rb'"\ud800"'), f"the body {SURROGATE}"),
    (msgspec.Raw(rb'"\udc00"'), f"the body {SURROGATE}"),
    (msgspec.Raw(rb'"\udc00\ud800"'), f"the body {SURROGATE}"),
    (msgspec.Raw(rb'"\ud800\ud800"'), f"the body {SURROGATE}"),
    (msgspec.Raw(rb'"\ud800\\udc00"'), f"the body {SURROGATE}"),
    (msgspec.Raw(b'"\xed\xa0\x80"'), "the body is not UTF-8"),
    # NaN, Infinity
    (math.nan, f"the payload {NOT_FINITE}"),
    ([None, {"a": [1.0, math.inf]}], rf"the payload at \[1\]\.a\[1\] {NOT_FINITE}"),
    ([None, 2**64, -math.inf], rf"the payload at \[2\] {NOT_FINITE}"),
    (Created(order_id=MARKER, weight=math.nan), rf"the payload at \.weight {NOT_FINITE}"),
    ({"a": Rate.NONE}, rf"the payload at \.a {NOT_FINITE}"),
    (Created(order_id=MARKER, total=Decimal("NaN")), rf"at \.total {NOT_FINITE}"),
    ([Decimal("-Infinity")], rf"at \[0\] {NOT_FINITE}"),
    ([Decimal("sNaN")], rf"at \[0\] {NOT_FINITE}"),
    ([CYCLE[:0], Part(math.nan)], rf"at \[1\]\.value {NOT_FINITE}"),
    (msgspec.Raw(b"NaN"), "the body is not valid JSON"),
    (msgspec.Raw(b"[Infinity]"), "the body is not valid JSON"),
    # Numbers
    (msgspec.Raw(b"1e400"), "a number that no 64-bit float can hold"),
    (msgspec.Raw(b"-1E400"), "a number that no 64-bit float can hold"),
    (msgspec.Raw(b'{"a":1.5e+0309 }'), "a number that no 64-bit float can hold"),
    (msgspec.Raw(b'["\\"",1e400,"\\""]'), "a number that no 64-bit float can hold"),
    (msgspec.Raw(b"[" + b",".join([b"1e131071"] * 9000) + b"]"), "exponent beyond 1000"),
    (msgspec.Raw(b"1e-1001"), "exponent beyond 1000"),
    (msgspec.Raw(b"[-1.5E-1001 ]"), "exponent beyond 1000"),
    (msgspec.Raw(b'{"a":1e309}'), "a number that no 64-bit float can hold"),
    (msgspec.Raw(b"[1E+0309,1]"), "a number that no 64-bit float can hold"),
    (msgspec.Raw(b"1e309\n"), "a number that no 64-bit float can hold"),
    (msgspec.Raw(b"9" * 400 + b".5"), "a number that no 64-bit float can hold"),
    (msgspec.Raw(b"9" * 400 + b"e-5"), "a number that no 64-bit float can hold"),
    (msgspec.Raw(b"9" * 220 + b"e99"), "a number that no 64-bit float can hold"),
    (msgspec.Raw(b"[" + b"1e99," * 180_000 + b"0]"), "exponents amount to 17820000 digits"),
    (msgspec.Raw(b"1e" + b"9" * 5000), "(exponent beyond|more than) 1000"),
    (msgspec.Raw(b"9" * 1001), "a number of more than 1000 digits"),
    (msgspec.Raw(b"0." + b"9" * 1001), "a number of more than 1000 digits"),
    (10**1000, "a number of more than 1000 digits"),
    ([10**4300], "digits|is a int that has no JSON form"),
    ([1e308] * 60_000, "exponents amount to 18480000 digits"),
    # Nesting
    (nested(513), f"the body {DEEP}"),
    (nested(1_000), "nested"),
    (nested(10_000), "nested too deep, or contains itself"),
    (CYCLE, "nested too deep, or contains itself"),
    (msgspec.Raw(b"[" * 513 + b"]" * 513), DEEP),
    (msgspec.Raw(b"[" * 10_000 + b"]" * 10_000), DEEP),
    (msgspec.Raw(b'{"a":' * 513 + b"1" + b"}" * 513), DEEP),
    # What is no JSON
    (msgspec.Raw(b""), "the body is not valid JSON"),
    (msgspec.Raw(b'{"a":marker-7f3a}'), "the body is not valid JSON"),
    ([msgspec.Raw(b"1,")], "the body is not valid JSON"),
    (msgspec.Raw(b"[1] 2"), "the body is not valid JSON"),
    (msgspec.Raw(b'"\xff"'), "the body is not UTF-8"),
    # What has no JSON form
    (Opaque(), "the payload is a Opaque, which has no JSON form"),
    ({"a": [1, Opaque()]}, r"the payload at \.a\[1\] is a Opaque"),
    ({"a": Part(1j)}, r"the payload at \.a\.value is a complex"),
    ({(1, MARKER): 1}, "the payload holds a dict with a key that has no JSON form"),
    ([Opaque], "is a type, which"),
]


@pytest.mark.parametrize(("payload", "said"), REFUSED, ids=range(len(REFUSED)))
def test_bodies_that_are_refused(payload: Any, said: str) -> None:
    with pytest.raises(PayloadError, match=f"^t: .*{said}") as caught:
        encode(payload)
    error = caught.value
    assert MARKER not in str(error)
    # A traceback shows causes, and they quote values.
    assert error.__cause__ is None
    assert error.__suppress_context__ or error.__context__ is None


def test_the_size_limit_is_exact() -> None:
    small = Encoder(source="shop", max_body=100)
    assert len(encode("x" * 98, small).body) == 100
    assert len(encode("é" * 49, small).body.encode()) == 100
    for payload in ("x" * 99, "é" * 49 + "x"):
        with pytest.raises(PayloadTooLarge, match="has 101 bytes of JSON; 100 are allowed"):
            encode(payload, small)
    assert len(encode("x" * (2**20 - 2)).body) == 2**20
    with pytest.raises(PayloadTooLarge):
        encode("x" * (2**20 - 1))


def holds_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, Mapping):
        return any(holds_nul(part) for item in value.items() for part in item)
    return isinstance(value, list) and any(map(holds_nul, value))


@given(json_values)
@settings(max_examples=300)
def test_what_jsonb_can_store_comes_back(value: Any) -> None:
    if holds_nul(value):
        with pytest.raises(PayloadError, match="U\\+0000"):
            encode(value)
        return
    body = encode(value).body
    assert decode(msgspec.json.Decoder(), body) == value
    assert json.loads(body) == value


@given(st.binary(max_size=40) | st.text(alphabet='\\u0d8Cc"[]{}:,1eE.-+ nul', max_size=30))
@settings(max_examples=500)
@example(b'"\\ud800\\udc0"')
def test_raw_text_is_stored_as_it_is_or_refused(raw: bytes | str) -> None:
    try:
        body = encode(msgspec.Raw(raw)).body
    except PayloadError:
        return
    assert body.encode() == (raw if isinstance(raw, bytes) else raw.encode())
    value = json.loads(body)
    assert not holds_nul(value)
    json.dumps(value, ensure_ascii=False, allow_nan=False).encode()


def test_a_deep_stack_does_not_break_encoding() -> None:
    def descend(left: int) -> str:
        return descend(left - 1) if left else encode([[[1]]]).body

    assert descend(sys.getrecursionlimit() // 2) == "[[[1]]]"

"""CloudEvents 1.0: what pgbus writes the official SDK reads, and the other way round."""

import base64
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import psycopg
import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_http_event, to_structured_event
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent as OfficialEvent
from hypothesis import given, settings
from hypothesis import strategies as st

from pgbus import (
    Bus,
    CloudEvent,
    ConfigurationError,
    Context,
    Event,
    InvalidTopic,
    Outgoing,
    PayloadError,
    from_cloudevent,
    to_cloudevent,
    upcast,
)
from pgbus.core.encoding import Encoder

ID = UUID("017f22e2-79b0-7cc3-98c4-dc0c0c07398f")
NOON = datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC)
SDK = JSONFormat()


class Line(msgspec.Struct):
    sku: str
    price: Decimal


class Placed(Event, topic="orders.placed", version=2, key="order_id"):
    order_id: str
    lines: list[Line]
    note: str | None = None


class Cancelled(Event, topic="orders.cancelled"):
    reason: str


@upcast(Placed, from_version=1)
def with_lines(old: dict[str, Any]) -> dict[str, Any]:
    return {"order_id": old["order_id"], "lines": []}


PLACED = Placed(order_id="Nº 7", lines=[Line("té", Decimal("4.50"))], note="\U0001f375 & <b>\n")
WRITTEN = to_cloudevent(
    PLACED,
    source="shop",
    id=ID,
    time=NOON,
    subject="order/7",
    dataschema="https://shop.example/schemas/orders.placed#2",
    correlation_id="c-1",
    causation_id="c-2",
    extensions={"traceparent": "00-4bf9-01", "sampledrate": 30, "urgent": True},
)


def official(attributes: dict[str, Any], data: Any) -> bytes:
    """Write an event with the SDK."""
    basic = {"id": "a-1", "source": "/mill/3", "type": "orders.cancelled"}
    return SDK.write(OfficialEvent({**basic, **attributes}, data))


class TestWhatIsWritten:
    def test_the_sdk_reads_it(self) -> None:
        event = SDK.read(OfficialEvent, WRITTEN)
        assert event.get_attributes() == {
            "specversion": "1.0",
            "id": str(ID),
            "source": "shop",
            "type": "orders.placed",
            "time": NOON,
            "datacontenttype": "application/json",
            "dataversion": 2,
            "correlationid": "c-1",
            "causationid": "c-2",
            "partitionkey": "Nº 7",
            "subject": "order/7",
            "dataschema": "https://shop.example/schemas/orders.placed#2",
            "traceparent": "00-4bf9-01",
            "sampledrate": 30,
            "urgent": True,
        }
        assert event.get_data() == {
            "order_id": "Nº 7",
            "lines": [{"sku": "té", "price": "4.50"}],
            "note": "\U0001f375 & <b>\n",
        }

    def test_what_is_not_said_is_not_there(self) -> None:
        written = to_cloudevent(Cancelled(reason="late"), source="shop", id=ID)
        assert json.loads(written) == {
            "specversion": "1.0",
            "id": str(ID),
            "source": "shop",
            "type": "orders.cancelled",
            "datacontenttype": "application/json",
            "dataversion": 1,
            "data": {"reason": "late"},
        }

    def test_a_payload_under_a_topic(self) -> None:
        written = to_cloudevent("weather.sunny", [1, None], source="shop", id=ID, key="north")
        event = SDK.read(OfficialEvent, written)
        data: Any = event.get_data()
        assert (event.get_type(), data) == ("weather.sunny", [1, None])
        assert event.get_extension("partitionkey") == "north"
        assert event.get_extension("dataversion") is None
        written = to_cloudevent("weather.sunny", {}, source="shop", id=ID, version=3)
        assert SDK.read(OfficialEvent, written).get_extension("dataversion") == 3

    @pytest.mark.parametrize(
        ("source", "said"),
        [
            ("shop", "shop"),
            ("my shop", "my%20shop"),
            ("büro/3", "b%C3%BCro/3"),
            ("my%20shop", "my%20shop"),
            ("100%", "100%25"),
            ("https://[::1]/shop?a=b#c", "https://[::1]/shop?a=b#c"),
        ],
    )
    def test_the_source_is_a_uri_reference(self, source: str, said: str) -> None:
        written = to_cloudevent(Cancelled(reason=""), source=source, id=ID)
        assert SDK.read(OfficialEvent, written).get_source() == said

    def test_a_time_elsewhere_is_one_in_utc(self) -> None:
        there = NOON.astimezone(timezone(timedelta(hours=-3)))
        written = to_cloudevent(Cancelled(reason=""), source="shop", id=ID, time=there)
        assert json.loads(written)["time"] == "2026-01-31T12:00:00.123456Z"

    @pytest.mark.parametrize(
        ("wrong", "error", "said"),
        [
            ({"extensions": {"trace-id": "1"}}, PayloadError, "'trace-id': use lower-case"),
            ({"extensions": {"Tenant": "1"}}, PayloadError, "'Tenant': use lower-case"),
            ({"extensions": {"": "1"}}, PayloadError, "use lower-case"),
            ({"extensions": {"id": "1"}}, PayloadError, "'id' is an attribute of another meaning"),
            ({"extensions": {"partitionkey": "1"}}, PayloadError, "of another meaning"),
            ({"extensions": {"data": "1"}}, PayloadError, "'data' is an attribute of another"),
            ({"extensions": {"a": None}}, PayloadError, "'a' is a str, an int or a bool, not a No"),
            ({"extensions": {"a": 1.5}}, PayloadError, "'a' is a str, an int or a bool, not a fl"),
            ({"extensions": {"a": "x\ny"}}, PayloadError, "'a' has a character that none may"),
            ({"extensions": {"a": "\ud800"}}, PayloadError, "'a' has a character that none may"),
            ({"subject": ""}, PayloadError, "'subject' is empty"),
            ({"subject": 7}, PayloadError, "'subject' is a str, not a int"),
            ({"correlation_id": ""}, PayloadError, "'correlationid' is empty"),
            ({"key": "a\tb"}, PayloadError, "'partitionkey' has a character"),
            ({"source": ""}, ConfigurationError, "source"),
            ({"version": 0}, ConfigurationError, "version=0: use a whole number"),
            ({"id": "17"}, ConfigurationError, "id is a UUID"),
            ({"time": datetime(2026, 1, 31)}, ConfigurationError, "time zone"),
        ],
    )
    def test_what_cloudevents_cannot_say_is_refused(
        self, wrong: dict[str, Any], error: type[Exception], said: str
    ) -> None:
        with pytest.raises(error, match=said):
            to_cloudevent(Cancelled(reason=""), **{"source": "shop", "id": ID, **wrong})

    def test_what_cannot_be_published_cannot_be_written(self) -> None:
        with pytest.raises(InvalidTopic):
            to_cloudevent("a b", {}, source="shop", id=ID)
        with pytest.raises(PayloadError, match=r"\.when is NaN"):
            to_cloudevent("a.b", {"when": float("nan")}, source="shop", id=ID)


class TestWhatIsRead:
    def test_what_was_written(self) -> None:
        assert from_cloudevent(WRITTEN, Placed) == CloudEvent(
            id=str(ID),
            source="shop",
            type="orders.placed",
            data=PLACED,
            time=NOON,
            subject="order/7",
            dataschema="https://shop.example/schemas/orders.placed#2",
            key="Nº 7",
            version=2,
            correlation_id="c-1",
            causation_id="c-2",
            extensions={"traceparent": "00-4bf9-01", "sampledrate": 30, "urgent": True},
        )

    def test_what_the_sdk_wrote(self) -> None:
        written = official(
            {
                "type": "orders.placed",
                "time": NOON.astimezone(timezone(timedelta(hours=2))),
                "subject": "ordré",
                "datacontenttype": "application/vnd.shop+json; charset=utf-8",
                "partitionkey": "7",
                "dataversion": "2",
                "traceparent": "00-4bf9-01",
                "ratio": 3,
            },
            {"order_id": "7", "lines": [{"sku": "té", "price": "4.50"}], "unknown": 1},
        )
        found = from_cloudevent(written, Placed)
        assert found.data == Placed(order_id="7", lines=[Line("té", Decimal("4.50"))])
        assert (found.id, found.source, found.time) == ("a-1", "/mill/3", NOON)
        assert (found.key, found.version, found.subject) == ("7", 2, "ordré")
        assert found.extensions == {"traceparent": "00-4bf9-01", "ratio": 3}

    @pytest.mark.parametrize("text", [str, bytes])
    def test_text_or_bytes(self, text: type) -> None:
        written = official({}, {"reason": "spät"})
        given: Any = written if text is bytes else written.decode()
        assert from_cloudevent(given, Cancelled).data == Cancelled(reason="spät")

    def test_data_in_base64(self) -> None:
        written = official({}, '{"reason":"spät"}'.encode())
        assert "data_base64" in json.loads(written)
        assert from_cloudevent(written, Cancelled).data == Cancelled(reason="spät")

    def test_structured_mode_of_http(self) -> None:
        event = OfficialEvent(
            {"id": "1", "source": "x", "type": "orders.cancelled"}, {"reason": "late"}
        )
        assert from_cloudevent(to_structured_event(event).body, Cancelled).data.reason == "late"
        message = HTTPMessage({"content-type": "application/cloudevents+json"}, WRITTEN)
        assert from_http_event(message).get_id() == str(ID)

    def test_without_data(self) -> None:
        written = official({"type": "com.example/ping"}, None)
        assert from_cloudevent(written).data is None
        with pytest.raises(PayloadError, match="got `null`"):
            from_cloudevent(official({}, None), Cancelled)

    def test_an_attribute_that_is_null_is_absent(self) -> None:
        text = {**json.loads(WRITTEN), "subject": None, "urgent": None}
        found = from_cloudevent(json.dumps(text), Placed)
        assert found.subject is None
        assert "urgent" not in found.extensions

    def test_data_that_is_null_is_absent(self) -> None:
        data = json.loads(official({}, b'{"reason":"late"}'))
        for text in ({**data, "data": None}, {**json.loads(WRITTEN), "data_base64": None}):
            assert from_cloudevent(json.dumps(text), Placed | Cancelled).data is not None

    @pytest.mark.parametrize(
        "time",
        [
            "2026-01-31T12:00:00.123456Z",
            "2026-01-31t12:00:00.123456z",
            "2026-01-31T12:00:00.123456400Z",
            "2026-01-31T11:00:00.123456-01:00",
        ],
    )
    def test_times(self, time: str) -> None:
        text = {**json.loads(WRITTEN), "time": time}
        assert from_cloudevent(json.dumps(text), Placed).time == NOON

    @pytest.mark.parametrize("kind", [Placed | Cancelled, Placed | Cancelled | dict])
    def test_a_union_is_told_apart_by_type(self, kind: Any) -> None:
        assert from_cloudevent(WRITTEN, kind).data == PLACED
        assert from_cloudevent(official({}, {"reason": "a"}), kind).data == Cancelled(reason="a")

    @pytest.mark.parametrize("version", [1, "1"])
    def test_an_older_version_is_raised(self, version: Any) -> None:
        written = official({"type": "orders.placed", "dataversion": version}, {"order_id": "7"})
        assert from_cloudevent(written, Placed).data == Placed(order_id="7", lines=[])

    @pytest.mark.parametrize(
        ("attributes", "said"),
        [
            ({"type": "orders.placed", "dataversion": 3}, "'orders.placed' version 3"),
            ({"type": "com.example/other"}, "'com.example/other' without a version"),
        ],
    )
    def test_what_has_no_type_is_refused(self, attributes: dict[str, Any], said: str) -> None:
        with pytest.raises(PayloadError, match=said):
            from_cloudevent(official(attributes, {}), Placed | Cancelled)
        assert from_cloudevent(official(attributes, {"a": 1})).data == {"a": 1}

    def test_numbers_keep_what_their_type_keeps(self) -> None:
        class Paid(Event, topic="orders.cancelled"):
            amount: Decimal

        text = official({}, {"amount": 0}).replace(
            b'"amount": 0', b'"amount": 12345678901234567.89'
        )
        assert from_cloudevent(text, Paid).data.amount == Decimal("12345678901234567.89")

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("", "no CloudEvent: "),
            ("{", "no CloudEvent: "),
            (b"\xff", "no CloudEvent: "),
            (b'{"a":"\xff"}', "no CloudEvent: "),
            ("[" * 100_000, "no CloudEvent: "),
            ("17", "it is JSON, but no object"),
            ("[]", "it is JSON, but no object"),
            ("{}", "it has no 'specversion'"),
            ('{"specversion":"0.3","id":"1"}', "its 'specversion' is not '1.0'"),
            ('{"specversion":1.0}', "its 'specversion' is not '1.0'"),
            ('{"order_id":"7"}', "it has no 'specversion'"),
        ],
    )
    def test_what_is_none(self, text: str | bytes, said: str) -> None:
        with pytest.raises(PayloadError, match=said):
            from_cloudevent(text)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"id": None}, "it has no 'id'"),
            ({"source": None}, "it has no 'source'"),
            ({"type": None}, "it has no 'type'"),
            ({"id": ""}, "'id' is empty"),
            ({"id": 17}, "'id' is a str, not a int"),
            ({"source": ["x"]}, "'source' is a str, not a list"),
            ({"time": "yesterday"}, "'time' is no RFC 3339"),
            ({"time": "2026-01-31T12:00:00"}, "'time' is no RFC 3339"),
            ({"time": 17}, "'time' is a str"),
            ({"datacontenttype": "text/xml"}, "data is no JSON"),
            ({"datacontenttype": "application/jsonp"}, "data is no JSON"),
            ({"data_base64": "e30="}, "both 'data' and 'data_base64'"),
            ({"data": None, "data_base64": "?"}, "'data_base64' is no string in base64"),
            ({"trace-id": "1"}, "'trace-id': use lower-case"),
            ({"nested": {"a": 1}}, "'nested' is a str, an int or a bool, not a dict"),
            ({"ratio": 0.5}, "'ratio' is a str, an int or a bool, not a float"),
            ({"partitionkey": ""}, "'partitionkey' is empty"),
            ({"partitionkey": 7}, "'partitionkey' is a str"),
            ({"dataversion": 0}, "'dataversion' is no version"),
            ({"dataversion": "two"}, "'dataversion' is no version"),
            ({"dataversion": 2.5}, "'dataversion' is a str, an int"),
            ({"dataversion": True}, "'dataversion' is no version"),
            ({"data": {"lines": []}}, "missing required field `order_id`"),
        ],
    )
    def test_what_is_wrong_is_named(self, change: dict[str, Any], said: str) -> None:
        with pytest.raises(PayloadError, match=said) as caught:
            from_cloudevent(json.dumps({**json.loads(WRITTEN), **change}), Placed)
        assert "4.50" not in str(caught.value)

    @pytest.mark.parametrize("encoded", ["?", 17, base64.b64encode(b"{").decode()])
    def test_base64_that_holds_no_json(self, encoded: Any) -> None:
        text = {**json.loads(WRITTEN), "data_base64": encoded}
        del text["data"]
        with pytest.raises(PayloadError):
            from_cloudevent(json.dumps(text), Placed)

    @pytest.mark.parametrize("parsed", [{"specversion": "1.0"}, None, 17])
    def test_what_is_no_text(self, parsed: Any) -> None:
        with pytest.raises(ConfigurationError, match="reads text, not a"):
            from_cloudevent(parsed)

    def test_a_kind_that_nothing_is_decoded_into(self) -> None:
        with pytest.raises(ConfigurationError, match=r"from_cloudevent: .* names no topic"):
            from_cloudevent(WRITTEN, Event)


texts = st.text(st.characters(exclude_categories=["Cc", "Cs", "Cn"]), min_size=1, max_size=20)


@settings(max_examples=50)
@given(
    st.dictionaries(
        st.from_regex("[a-z0-9]{1,20}", fullmatch=True),
        texts | st.integers(-(2**31), 2**31 - 1) | st.booleans(),
        max_size=4,
    ),
    texts,
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20),
)
def test_round_trips(extensions: dict[str, str | int | bool], subject: str, reason: str) -> None:
    taken = {"data", "id", "time", "type", "source", "subject"}
    extensions = {name: value for name, value in extensions.items() if name not in taken}
    event = Cancelled(reason=reason)
    written = to_cloudevent(
        event, source="shop", id=ID, time=NOON, subject=subject, extensions=extensions
    )
    theirs = SDK.write(SDK.read(OfficialEvent, written))
    for text in (written, theirs):
        found = from_cloudevent(text, Cancelled)
        assert (found.data, found.subject, found.time) == (event, subject, NOON)
        assert dict(found.extensions) == extensions


class TestOutgoing:
    def read(self, **attributes: Any) -> CloudEvent[Cancelled]:
        return from_cloudevent(official(attributes, {"reason": "late"}), Cancelled)

    def test_what_comes_along(self) -> None:
        found = self.read(subject="s", partitionkey="k", rate=30, urgent=True, dataschema="x:y")
        assert found.outgoing() == Outgoing(
            "orders.cancelled",
            Cancelled(reason="late"),
            "k",
            {"subject": "s", "dataschema": "x:y", "rate": "30", "urgent": "true"},
            id=found.outgoing().id,
        )
        assert found.outgoing("orders.called_off").topic == "orders.called_off"

    def test_its_id_is_that_of_the_event_in_its_source(self) -> None:
        assert self.read(id=str(ID)).outgoing().id == ID
        assert self.read(id=str(ID), source="other").outgoing().id == ID
        ids = [
            self.read(id=one, source=source).outgoing().id
            for one, source in [("1", "a"), ("2", "a"), ("1", "b"), ("1", "a")]
        ]
        assert len(set(ids)) == 3
        assert ids[0] == ids[3]
        assert self.read(id=ID.hex).outgoing().id != ID


def stored_headers(bus: Bus, queue: str) -> list[dict[str, Any]]:
    with psycopg.connect(bus.dsn) as connection:
        rows = connection.execute(f"select headers from pgmq.q_{queue} order by msg_id")
        return [headers for (headers,) in rows]


def test_the_headers_of_a_message_are_a_cloudevent(make_bus: Callable[..., Bus]) -> None:
    """The official SDK takes them as attributes, without what is pgbus's and pgmq's own."""
    bus = make_bus(service="Müller & Söhne")
    bus.subscribe("orders.*", name="billing")(lambda event: None)
    bus.declare()
    begun = datetime.now(UTC)
    receipt = bus.publish(PLACED, headers={"subject": "order/7", "tenant": "é"})
    [headers] = stored_headers(bus, "billing")
    own = {name: headers.pop(name) for name in ("pgbus-topic", "pgbus-version", "x-pgmq-group")}
    assert own == {"pgbus-topic": "orders.placed", "pgbus-version": 2, "x-pgmq-group": "Nº 7"}
    headers["time"] = datetime.fromisoformat(headers["time"])
    event = OfficialEvent(headers, None)
    assert begun <= event.get_attributes()["time"] <= datetime.now(UTC)
    assert {name: value for name, value in event.get_attributes().items() if name != "time"} == {
        "specversion": "1.0",
        "id": str(receipt.id),
        "source": "M%C3%BCller%20&%20S%C3%B6hne",
        "type": "orders.placed",
        "datacontenttype": "application/json",
        "subject": "order/7",
        "tenant": "é",
    }


@pytest.fixture
def elsewhere(new_database: Callable[..., str], installed_template: str) -> Iterator[Bus]:
    """A bus on another database."""
    with Bus(new_database(installed_template), service="mill") as bus:
        yield bus


def test_a_handler_sends_on_what_it_got(make_bus: Callable[..., Bus], elsewhere: Bus) -> None:
    """From one bus over the wire to another, where it arrives twice and is stored once."""
    bus = make_bus(service="shop")
    sent: list[bytes] = []
    got: list[tuple[Any, Context]] = []

    @bus.subscribe("orders.placed", name="sender")
    def send(event: Placed, context: Context) -> None:
        context.publish(Cancelled(reason="sold out"))
        sent.append(context.to_cloudevent(event))

    @bus.subscribe("orders.cancelled", name="second")
    def send_too(event: dict[str, Any], context: Context) -> None:
        sent.append(context.to_cloudevent(event))

    @elsewhere.subscribe("orders.#", name="mill", concurrency=1)
    def take(event: Placed | dict[str, Any], context: Context) -> None:
        got.append((event, context))

    elsewhere.declare()
    with bus.running():
        receipt = bus.publish(PLACED, headers={"subject": "order/7", "tenant": "é"})
        assert bus.wait_idle()
    placed, cancelled = (from_cloudevent(one) for one in sent)
    assert (placed.id, placed.source, placed.key) == (str(receipt.id), "shop", "Nº 7")
    assert (placed.version, placed.subject) == (2, "order/7")
    assert placed.extensions == {"tenant": "é"}
    assert placed.time is not None
    assert cancelled.version == 1  # though the handler takes a dict
    assert cancelled.causation_id == cancelled.correlation_id == str(receipt.id)

    foreign = official({"type": "orders.noted"}, {"note": "rain"})
    arrived = [from_cloudevent(sent[0], Placed).outgoing(), from_cloudevent(foreign).outgoing()]
    first, again = elsewhere.publish_many(arrived), elsewhere.publish_many(arrived)
    assert [(one.queues, one.duplicate) for one in first] == [(1, False), (1, False)]
    assert [(one.queues, one.duplicate) for one in again] == [(0, True), (0, True)]
    with elsewhere.running():
        assert elsewhere.wait_idle()
    assert sorted(map(repr, (event for event, _ in got))) == [repr(PLACED), "{'note': 'rain'}"]
    [context] = [context for event, context in got if event == PLACED]
    assert (context.id, context.key, context.source) == (receipt.id, "Nº 7", "mill")
    assert context.headers == {"subject": "order/7", "tenant": "é"}


def test_a_foreign_message_may_say_too_little(bus: Bus) -> None:
    errors: list[str] = []

    @bus.subscribe("orders.*", name="billing")
    def on_order(event: Any, context: Context) -> None:
        try:
            context.to_cloudevent(event)
        except PayloadError as error:
            errors.append(str(error))

    bus.declare()
    with psycopg.connect(bus.dsn) as connection:
        connection.execute("select pgmq.send('billing', '{}'::jsonb)")
    with bus.running():
        assert bus.wait_idle()
    assert errors == ["to_cloudevent: the message does not say its id; use pgbus.to_cloudevent"]


def test_the_encoder_writes_a_uri_reference() -> None:
    encoded = Encoder(source="my shop").encode(
        Cancelled(reason=""), new_id=ID, time="2026-01-31T12:00:00Z"
    )
    assert json.loads(encoded.headers)["source"] == "my%20shop"

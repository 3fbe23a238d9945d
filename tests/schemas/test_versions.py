"""Events in other versions than the handler's: casts, versions that fit, waiting, dead letters."""

import logging
import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from pgbus import Bus, ConfigurationError, Incident, PayloadError, downcast, upcast
from pgbus.core.evolution import downcast_versions, upcast_versions
from pgbus.threads import fetcher
from tests.schemas.kinds import TOPIC, event, handler
from tests.waiting import eventually

MakeBus = Callable[..., Bus]

V1 = event(("order_id", str), ("cents", int))
V2 = event(("order_id", str), ("cents", int), ("currency", str, "EUR"), version=2)
V3 = event(("order_id", str), ("total", str), ("currency", str), version=3)
"""Nothing of before reads it, but by a downcast."""


def subscribe(bus: Bus, annotation: Any, *, name: str = "billing") -> list[Any]:
    seen: list[Any] = []
    bus.subscribe("orders.*", name=name)(handler(annotation, seen.append))
    return seen


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a worker gives back, which tells nobody, another finds by its polls: more of them."""
    monkeypatch.setattr(fetcher, "SLEEP", 0.1)


def incidents(bus: Bus) -> list[Incident]:
    found: list[Incident] = []
    bus.on_error(found.append)
    return found


def with_casts(*, up: bool = False, down: bool = False) -> Any:
    """Make version 3 anew, with its own casts."""
    made = event(("order_id", str), ("total", str), ("currency", str), version=3)
    if up:

        @upcast(made, from_version=1)
        def add_currency(old: dict[str, Any]) -> dict[str, Any]:
            return old | {"currency": "EUR"}

        @upcast(made, from_version=2)
        def make_total(old: dict[str, Any]) -> dict[str, Any]:
            cents = old.pop("cents")
            return old | {"total": f"{cents / 100:.2f}"}

    if down:

        @downcast(made, to_version=2)
        def make_cents(new: dict[str, Any]) -> dict[str, Any]:
            total = new.pop("total")
            return new | {"cents": round(float(total) * 100)}

    return made


def test_old_events_come_step_by_step(make_bus: MakeBus) -> None:
    now = with_casts(up=True)
    assert upcast_versions(now) == (1, 2)
    bus = make_bus()
    seen = subscribe(bus, now)
    bus.declare()
    make_bus().publish_many(
        [
            V1(order_id="a", cents=150),
            V2(order_id="b", cents=250, currency="CHF"),
            V3(order_id="c", total="3.50", currency="USD"),
        ]
    )
    with bus.running():
        assert bus.wait_idle()
    assert sorted(seen, key=lambda one: str(one.order_id)) == [
        now(order_id="a", total="1.50", currency="EUR"),
        now(order_id="b", total="2.50", currency="CHF"),
        now(order_id="c", total="3.50", currency="USD"),
    ]


def test_the_current_version_takes_no_step(make_bus: MakeBus) -> None:
    kind = event(("order_id", str), version=2)
    called = []

    @upcast(kind, from_version=1)
    def never(old: dict[str, Any]) -> dict[str, Any]:
        called.append(old)
        return old

    bus = make_bus()
    seen = subscribe(bus, kind)
    with bus.running():
        bus.publish(kind(order_id="a"))
        assert bus.wait_idle()
    assert (seen, called) == ([kind(order_id="a")], [])


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        ({}, "the body does not fit: Object missing required field `total`"),
        ("text", "returned a str, not a dict"),
        (ZeroDivisionError(), "from version 1 failed: ZeroDivisionError"),
    ],
)
def test_an_upcast_that_fails_makes_a_dead_letter(
    make_bus: MakeBus, made: Any, reason: str
) -> None:
    kind = event(("total", int), version=2)

    @upcast(kind, from_version=1)
    def wrong(old: dict[str, Any]) -> dict[str, Any]:
        if isinstance(made, Exception):
            raise made
        return made  # type: ignore[no-any-return]

    bus = make_bus()
    seen = subscribe(bus, kind)
    bus.declare()
    make_bus().publish(event(("n", int))(n=42))
    with bus.running():
        assert bus.wait_idle()
    [letter] = bus.dead_letters("billing")
    assert seen == []
    assert reason in letter.error
    assert "42" not in letter.error


def test_casts_that_lead_nowhere_are_refused(bus: Bus) -> None:
    kind = event(("n", int), version=4)
    upcast(kind, from_version=1)(dict)
    upcast(kind, from_version=3)(dict)
    subscribe(bus, kind)
    with pytest.raises(ConfigurationError, match="from version 1 leads nowhere"):
        bus.start()
    with pytest.raises(ConfigurationError, match="there is one with from_version=3"):
        upcast(kind, from_version=3)
    with pytest.raises(ConfigurationError, match="not an earlier version"):
        downcast(kind, to_version=4)
    with pytest.raises(ConfigurationError, match="names no topic"):
        upcast(event(("n", int), topic=None), from_version=1)  # type: ignore[arg-type]


def test_a_newer_version_that_fits_is_decoded(
    make_bus: MakeBus, caplog: pytest.LogCaptureFixture
) -> None:
    bus = make_bus()
    seen, found = subscribe(bus, V1), incidents(bus)
    with caplog.at_level(logging.INFO, "pgbus.threads.versions"), bus.running():
        publisher = make_bus()
        publisher.publish(V2(order_id="a", cents=1, currency="CHF"))
        publisher.publish(V2(order_id="b", cents=2))
        assert bus.wait_idle()
    assert sorted(seen, key=lambda one: str(one.order_id)) == [
        V1(order_id="a", cents=1),
        V1(order_id="b", cents=2),
    ]
    assert found == []
    assert f"{TOPIC} version 2 is read as version 1, which it fits" in caplog.text


def test_an_older_version_that_fits_needs_no_upcast(make_bus: MakeBus) -> None:
    bus = make_bus()
    seen = subscribe(bus, V2)
    bus.declare()
    make_bus().publish(V1(order_id="a", cents=1))
    with bus.running():
        assert bus.wait_idle()
    assert seen == [V2(order_id="a", cents=1, currency="EUR")]


def test_a_newer_version_that_does_not_fit_is_a_dead_letter_that_says_why(
    make_bus: MakeBus, caplog: pytest.LogCaptureFixture
) -> None:
    bus = make_bus()
    seen, found = subscribe(bus, V1), incidents(bus)
    with caplog.at_level(logging.ERROR, "pgbus"), bus.running():
        make_bus().publish(V3(order_id="a", total="1.50", currency="EUR"))
        assert bus.wait_idle()
    [letter] = bus.dead_letters("billing")
    assert seen == []
    assert letter.error == (
        f"PayloadError: no live worker of billing knows '{TOPIC}' in version 3: it does not fit "
        "version 1 (cents: was removed; the older type needs it)"
    )
    [incident] = found
    assert (incident.kind, incident.context.topic) == ("dead_letter", TOPIC)
    assert isinstance(incident.error, PayloadError)
    assert "it does not fit version 1 (cents: was removed" in caplog.text


def test_a_version_that_nobody_recorded_is_a_dead_letter(make_bus: MakeBus) -> None:
    bus = make_bus()
    subscribe(bus, V1)
    with bus.running():
        make_bus(schema_check="off").publish(V2(order_id="a", cents=1))
        assert bus.wait_idle()
    [letter] = bus.dead_letters("billing")
    assert "in version 2: the registry does not know that version" in letter.error


@pytest.mark.usefixtures("eager")
def test_a_newer_version_waits_for_a_worker_that_knows_it(make_bus: MakeBus) -> None:
    """Whichever worker gets it first: the one of the old release gives it back, uncounted."""
    old, new = make_bus(), make_bus()
    seen_old, seen_new = subscribe(old, V1), subscribe(new, V3)
    found = incidents(old)
    with new.running(), old.running():
        make_bus().publish_many([V3(order_id=str(n), total="1", currency="EUR") for n in range(8)])
        eventually(lambda: len(seen_new) == 8)
    assert (seen_old, found) == ([], [])
    assert list(old.dead_letters("billing")) == []


def test_a_downcast_serves_old_subscribers(make_bus: MakeBus, bus_dsn: str) -> None:
    now = with_casts(down=True)
    assert downcast_versions(now) == (2,)
    old, current = make_bus(), make_bus()
    seen_old, seen_now = subscribe(old, V2), subscribe(current, now, name="audit")
    found = incidents(old)
    with old.running(), current.running():
        make_bus().publish(now(order_id="a", total="1.50", currency="CHF"))
        assert old.wait_idle()
        assert current.wait_idle()
    assert seen_old == [V2(order_id="a", cents=150, currency="CHF")]
    assert seen_now == [now(order_id="a", total="1.50", currency="CHF")]
    assert found == []


def test_downcasts_chain_and_are_chosen_newest_first(make_bus: MakeBus) -> None:
    now = with_casts(down=True)

    @downcast(now, to_version=1)
    def drop_currency(new: dict[str, Any]) -> dict[str, Any]:
        del new["currency"]
        return new

    first, both = make_bus(), make_bus()
    seen_first, seen_both = subscribe(first, V1), subscribe(both, V1 | V2, name="both")
    with first.running(), both.running():
        make_bus().publish(now(order_id="a", total="1.50", currency="CHF"))
        assert first.wait_idle()
        assert both.wait_idle()
    assert seen_first == [V1(order_id="a", cents=150)]
    assert seen_both == [V2(order_id="a", cents=150, currency="CHF")]


def test_a_downcast_that_fails_is_refused_at_the_publish(make_bus: MakeBus) -> None:
    kind = event(("n", int), version=2)

    @downcast(kind, to_version=1)
    def wrong(new: dict[str, Any]) -> dict[str, Any]:
        raise KeyError("secret")

    bus = make_bus()
    with pytest.raises(PayloadError, match="to version 1 failed: KeyError") as caught:
        bus.publish(kind(n=1))
    assert "secret" not in str(caught.value)


def test_an_event_without_a_version_is_the_only_one_known(make_bus: MakeBus, bus_dsn: str) -> None:
    bus = make_bus()
    seen = subscribe(bus, V2)
    with bus.running():
        with psycopg.connect(bus_dsn, autocommit=True) as connection:
            connection.execute(
                "select pgmq.send_topic(%s, %s::jsonb, null::jsonb, 0)",
                (TOPIC, '{"order_id": "a", "cents": 3}'),
            )
            connection.execute(
                "select pgmq.send_topic(%s, %s::jsonb, %s::jsonb, 0)",
                (TOPIC, '{"order_id": "b", "cents": 4}', f'{{"pgbus-topic": "{TOPIC}"}}'),
            )
        eventually(lambda: len(seen) == 2)
    assert {one.currency for one in seen} == {"EUR"}


def send_without_version(dsn: str, *order_ids: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.cursor().executemany(
            "select pgmq.send_topic(%s, %s::jsonb, %s::jsonb, 0)",
            [
                (TOPIC, f'{{"order_id": "{one}", "cents": 3}}', f'{{"type": "{TOPIC}"}}')
                for one in order_ids
            ],
        )


@pytest.mark.usefixtures("eager")
def test_an_event_without_a_version_waits_for_a_worker_that_takes_it(
    make_bus: MakeBus, bus_dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    other, knowing = make_bus(), make_bus()
    seen_other = subscribe(other, event(("order_id", str), topic="orders.cancelled"))
    seen: list[Any] = []
    met = threading.Event()

    def handle(one: Any) -> None:
        met.wait(20)  # what this one, busy, leaves is the other's
        seen.append(one)

    knowing.subscribe("orders.*", name="billing", concurrency=1)(handler(V2, handle))
    found = incidents(other)
    sent: list[str] = []

    def other_met_one() -> bool:
        more = [str(len(sent) + n) for n in range(20)]
        send_without_version(bus_dsn, *more)
        sent.extend(more)
        return bool(found) or f"another worker knows '{TOPIC}' without a version" in caplog.text

    with caplog.at_level(logging.INFO, "pgbus"), knowing.running(), other.running():
        eventually(other_met_one)
        met.set()
        eventually(lambda: found or len(seen) == len(sent))
    assert (seen_other, found) == ([], [])
    assert {one.order_id for one in seen} == {*sent}
    assert list(other.dead_letters("billing")) == []


def test_nobody_waits_for_a_worker_that_only_an_upcast_leads_to(
    make_bus: MakeBus, bus_dsn: str
) -> None:
    """Of several versions, none of them 1, none is taken for that of an event without one."""
    buses = [make_bus(), make_bus()]
    seen = [subscribe(one, V2 | with_casts(up=True)) for one in buses]
    with buses[0].running(), buses[1].running():
        send_without_version(bus_dsn, "a")
        assert buses[0].wait_idle()
    assert seen == [[], []]
    [letter] = buses[0].dead_letters("billing")
    assert (
        letter.error == f"PayloadError: no live worker of billing knows '{TOPIC}' without a version"
    )


def test_versions_may_follow_each_other_at_once(make_bus: MakeBus) -> None:
    """What the registry said of an earlier one does not hold for the next."""
    bus, publisher = make_bus(), make_bus()
    seen = subscribe(bus, V1)
    later = [
        event(("order_id", str), ("cents", int), (f"more_{n}", int, n), version=n)
        for n in range(2, 6)
    ]
    with bus.running():
        for kind in later:
            publisher.publish(kind(order_id=str(kind.__event_version__), cents=1))
            assert bus.wait_idle()
    assert [one.order_id for one in seen] == ["2", "3", "4", "5"]
    assert list(bus.dead_letters("billing")) == []

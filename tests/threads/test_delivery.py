"""What handlers get: types, order, context, outcomes."""

import threading
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from pgbus import (
    REJECT,
    Bus,
    ConfigurationError,
    Context,
    Event,
    Incident,
    LeaseLost,
    Outgoing,
    Reject,
    Retry,
    RetryAfter,
)
from tests.waiting import eventually

QUICK = Retry(initial=0.01, maximum=0.05)


class Created(Event, topic="orders.created", key="order"):
    order: str
    n: int = 0


class CreatedNow(Event, topic="orders.created", version=2, key="order"):
    order: str
    total: int


class Cancelled(Event, topic="orders.cancelled", key="order"):
    order: str


def test_typed_events_reach_every_matching_subscription_once(bus: Bus) -> None:
    billing: list[object] = []
    audit: list[dict[str, Any]] = []

    @bus.subscribe("orders.*", "orders.created", name="billing")
    def on_order(event: Created | CreatedNow | Cancelled) -> None:
        billing.append(event)

    @bus.subscribe("#", name="audit")
    def on_anything(event: dict[str, Any]) -> None:
        audit.append(event)

    with bus.running():
        receipts = bus.publish_many(
            [Created(order="a"), CreatedNow(order="b", total=3), Cancelled(order="a")]
        )
        other = bus.publish("stock.low", {"item": 7})
        assert bus.wait_idle(10)

    assert [receipt.queues for receipt in receipts] == [2, 2, 2]
    assert other.queues == 1
    assert sorted(map(repr, billing)) == sorted(
        map(repr, [Created(order="a"), CreatedNow(order="b", total=3), Cancelled(order="a")])
    )
    assert {"item": 7} in audit
    assert len(audit) == 4


def test_context_says_everything(bus: Bus) -> None:
    seen: list[Context] = []

    @bus.subscribe("orders.*", name="billing")
    def on_order(event: Created, context: Context) -> None:
        seen.append(context)

    @bus.subscribe("billed.#", name="ledger")
    def on_billed(event: dict[str, Any], context: Context) -> None:
        seen.append(context)

    chosen = uuid4()
    with bus.running():
        before = datetime.now(UTC)
        bus.publish(Created(order="a"), id=chosen, headers={"tenant": "x"})
        assert bus.wait_idle(10)
        first = seen[0]
        assert first.id == chosen
        assert first.topic == "orders.created"
        assert first.key == "a"
        assert dict(first.headers) == {"tenant": "x"}
        assert first.attempt == 1
        assert first.subscription == "billing"
        assert first.correlation_id is None
        assert first.causation_id is None
        assert abs(first.published_at - before) < timedelta(seconds=5)


def test_what_a_handler_publishes_appears_once_and_names_its_cause(bus: Bus) -> None:
    effects: list[tuple[int, str | None, str | None]] = []

    @bus.subscribe("orders.created", name="billing", retry=QUICK)
    def on_order(event: Created, context: Context) -> None:
        context.publish("billed.order", {"n": event.n}, key=event.order)
        if context.attempt < 3:
            raise ValueError("not yet")

    @bus.subscribe("billed.#", name="ledger")
    def on_billed(event: dict[str, int], context: Context) -> None:
        effects.append((event["n"], context.correlation_id, context.causation_id))

    with bus.running():
        receipts = bus.publish_many([Created(order="a", n=n) for n in range(20)])
        assert bus.wait_idle(20)

    assert [n for n, _, _ in effects] == list(range(20))
    assert [cause for _, _, cause in effects] == [str(receipt.id) for receipt in receipts]
    assert all(correlation == cause for _, correlation, cause in effects)


def test_order_is_kept_within_a_key_through_failures(bus: Bus) -> None:
    handled: dict[str, list[int]] = defaultdict(list)
    failed: set[tuple[str, int]] = set()

    @bus.subscribe("orders.*", name="billing", concurrency=4, retry=QUICK)
    def on_order(event: Created) -> None:
        if event.n % 5 == 3 and (event.order, event.n) not in failed:
            failed.add((event.order, event.n))
            raise RuntimeError("first time")
        handled[event.order].append(event.n)

    with bus.running():
        bus.publish_many([Created(order=f"o{k}", n=n) for n in range(20) for k in range(50)])
        assert bus.wait_idle(30)
    assert len(handled) == 50
    assert all(numbers == list(range(20)) for numbers in handled.values())
    assert len(failed) == 200


def test_a_key_waits_for_its_retry_while_others_go_on(bus: Bus) -> None:
    handled: list[tuple[str, int]] = []
    release = threading.Event()

    @bus.subscribe("orders.*", name="billing")
    def on_order(event: Created) -> None:
        if event.order == "slow" and not release.is_set():
            raise RetryAfter(0.05)
        handled.append((event.order, event.n))

    with bus.running():
        bus.publish_many([Created(order="slow", n=1), Created(order="slow", n=2)])
        bus.publish_many([Created(order="quick", n=n) for n in range(3)])
        eventually(lambda: len(handled) == 3)
        assert all(order == "quick" for order, _ in handled)
        release.set()
        assert bus.wait_idle(10)
    assert handled[3:] == [("slow", 1), ("slow", 2)]
    assert list(bus.dead_letters("billing")) == []


def test_dead_letters_keep_everything_and_redrive_comes_before_successors(bus: Bus) -> None:
    broken = threading.Event()
    handled: list[int] = []
    incidents: list[Incident] = []
    bus.on_error(incidents.append)
    retry = Retry(max_attempts=3, initial=0.01)

    @bus.subscribe("orders.*", name="billing", retry=retry, on_exhausted="park")
    def on_order(event: Created) -> None:
        if event.n == 1 and not broken.is_set():
            raise ValueError("poison")
        handled.append(event.n)

    with bus.running():
        receipt = bus.publish(Created(order="a", n=1), headers={"tenant": "x"})
        bus.publish_many([Created(order="a", n=n) for n in (2, 3)])
        eventually(lambda: bus.status()[0].dead_letters == 1)
        bus.publish(Created(order="b", n=9))
        eventually(lambda: 9 in handled)
        assert handled == [9]
        [status] = bus.status()
        assert (status.parked, status.ready, status.dead_letters) == (2, 0, 1)
        assert bus.wait_idle(20)

        [letter] = bus.dead_letters("billing")
        assert letter.id == receipt.id
        assert letter.topic == "orders.created"
        assert letter.key == "a"
        assert letter.body == {"order": "a", "n": 1}
        assert letter.headers["tenant"] == "x"
        assert letter.error == "ValueError: poison"
        assert letter.error_type == "ValueError"
        assert "raise ValueError" in letter.traceback
        assert letter.attempts == 3
        assert letter.first_at < letter.last_at

        broken.set()
        assert bus.redrive("billing") == 1
        assert bus.wait_idle(10)
    assert handled == [9, 1, 2, 3]
    assert list(bus.dead_letters("billing")) == []
    assert [one.kind for one in incidents] == ["failure", "failure", "dead_letter"]


def test_skip_goes_on_behind_a_dead_letter_and_redrive_takes_ids_and_a_limit(bus: Bus) -> None:
    handled: list[int] = []
    repaired = threading.Event()

    @bus.subscribe("orders.*", name="billing")
    def on_order(event: Created) -> None:
        if event.n < 3 and not repaired.is_set():
            raise Reject("no")
        handled.append(event.n)

    with bus.running():
        receipts = bus.publish_many([Created(order="a", n=n) for n in range(5)])
        assert bus.wait_idle(10)
        assert handled == [3, 4]
        repaired.set()
        assert bus.redrive("billing", ids=[uuid4()]) == 0
        assert bus.redrive("billing", ids=[receipts[1].id]) == 1
        assert bus.wait_idle(10)
        assert handled == [3, 4, 1]
        assert bus.redrive("billing", limit=1) == 1
        assert bus.wait_idle(10)
        assert handled == [3, 4, 1, 0]
        assert bus.drop_dead_letters("billing") == 1
    with pytest.raises(ConfigurationError, match="no subscription 'nobody'"):
        bus.redrive("nobody")


def test_dropping_the_dead_letter_lets_a_parked_key_go_on(bus: Bus) -> None:
    handled: list[int] = []

    @bus.subscribe("orders.*", name="billing", on_exhausted="park")
    def on_order(event: Created) -> None:
        if event.n == 0:
            raise Reject("no")
        handled.append(event.n)

    with bus.running():
        bus.publish_many([Created(order="a", n=n) for n in range(3)])
        eventually(lambda: bus.status()[0].parked == 2)
        assert bus.drop_dead_letters("billing") == 1
        eventually(lambda: handled == [1, 2])


def test_retry_by_exception_type_and_reject(bus: Bus) -> None:
    attempts: dict[int, int] = defaultdict(int)
    errors: dict[int, type[Exception]] = {1: KeyError, 2: OSError, 3: ValueError}
    twice = Retry(max_attempts=2, initial=0.01)
    retry = Retry(max_attempts=4, initial=0.01, on={LookupError: REJECT, OSError: twice})

    @bus.subscribe("orders.*", name="billing", retry=retry)
    def on_order(event: Created) -> None:
        attempts[event.n] += 1
        raise errors[event.n]("x")

    with bus.running():
        bus.publish_many([Created(order=str(n), n=n) for n in errors])
        assert bus.wait_idle(10)
    assert attempts == {1: 1, 2: 2, 3: 4}
    assert sorted(letter.attempts for letter in bus.dead_letters("billing")) == [1, 2, 4]


def test_a_retry_later_than_any_time_is_a_failure(bus: Bus) -> None:
    @bus.subscribe("orders.*", name="billing", retry=Retry(max_attempts=2, initial=0.01))
    def on_order(event: Created) -> None:
        raise RetryAfter(1.7e18)

    with bus.running():
        bus.publish(Created(order="a"))
        assert bus.wait_idle(10)
    [letter] = bus.dead_letters("billing")
    assert letter.attempts == 2
    assert letter.error.startswith("ConfigurationError: RetryAfter: seconds=1.7e+18: use a number")


def test_a_body_that_does_not_fit_is_dead_lettered_and_harms_no_neighbour(bus: Bus) -> None:
    handled: list[int] = []

    @bus.subscribe("orders.*", name="billing")
    def on_order(event: Created) -> None:
        handled.append(event.n)

    with bus.running():
        bus.publish(Created(order="a", n=1))
        bad = {"order": "a", "n": "secret"}
        bus.publish("orders.created", bad, key="a")
        bus.publish(Created(order="a", n=3))
        assert bus.wait_idle(10)
    assert handled == [1, 3]
    [letter] = bus.dead_letters("billing")
    assert letter.error_type == "PayloadError"
    assert letter.attempts == 1
    assert "secret" not in letter.error


def test_transactional_effects_are_exactly_once(bus: Bus, bus_dsn: str) -> None:
    with psycopg.connect(bus_dsn) as connection:
        connection.execute("create table effects (n integer)")
    published: list[int] = []

    @bus.subscribe("orders.*", name="billing", retry=QUICK, concurrency=4)
    def on_order(event: Created, connection: psycopg.Connection[Any], context: Context) -> None:
        connection.execute("insert into effects values (%s)", (event.n,))
        context.publish("billed", event.n)
        if event.n % 3 == 0 and context.attempt == 1:
            raise RuntimeError("after the write")

    @bus.subscribe("billed", name="ledger")
    def on_billed(event: int) -> None:
        published.append(event)

    with bus.running():
        bus.publish_many([Created(order=str(n % 7), n=n) for n in range(60)])
        assert bus.wait_idle(20)
    with psycopg.connect(bus_dsn) as connection:
        rows = connection.execute("select n from effects order by n").fetchall()
    assert [n for (n,) in rows] == list(range(60))
    assert sorted(published) == list(range(60))


def test_a_transactional_successor_does_not_overtake_a_dead_letter(bus: Bus) -> None:
    deliveries: list[int] = []

    @bus.subscribe("orders.*", name="billing")
    def on_order(event: Created, connection: psycopg.Connection[Any]) -> None:
        deliveries.append(event.n)
        if event.n % 2:
            raise Reject("odd")

    bus.declare()
    bus.publish_many([Created(order="a", n=n) for n in range(1, 21)])
    with bus.running():
        assert bus.wait_idle(20)
    assert deliveries == list(range(1, 21))
    assert len(list(bus.dead_letters("billing"))) == 10


def test_async_handlers_run_on_one_loop(bus: Bus) -> None:
    import asyncio

    loops: set[int] = set()
    handled: list[int] = []

    @bus.subscribe("orders.*", name="billing")
    async def on_order(event: Created, context: Context) -> None:
        loops.add(id(asyncio.get_running_loop()))
        await asyncio.sleep(0)
        if event.n == 2 and context.attempt == 1:
            raise RuntimeError
        handled.append(event.n)

    with bus.running():
        bus.publish_many([Created(order="a", n=n) for n in range(5)])
        assert bus.wait_idle(10)
    assert handled == list(range(5))
    assert len(loops) == 1


def test_unkeyed_events_and_unordered_subscriptions_run_in_parallel(bus: Bus) -> None:
    everyone = threading.Barrier(4, timeout=10)

    @bus.subscribe("plain.#", name="plain", concurrency=4)
    def on_plain(event: int) -> None:
        everyone.wait()

    @bus.subscribe("keyed.#", name="keyed", concurrency=4, ordered=False)
    def on_keyed(event: int) -> None:
        everyone.wait()

    with bus.running():
        bus.publish_many([Outgoing("plain", n) for n in range(4)])
        assert bus.wait_idle(10)
        bus.publish_many([Outgoing("keyed", n, key="same") for n in range(4)])
        assert bus.wait_idle(10)
    assert not list(bus.dead_letters("plain"))
    assert not list(bus.dead_letters("keyed"))


def test_a_call_that_takes_too_long_is_given_up_and_its_thread_replaced(bus: Bus) -> None:
    stuck = threading.Event()
    handled: list[int] = []
    lost: list[bool] = []

    @bus.subscribe("orders.*", name="billing", concurrency=1, timeout=1, retry=QUICK)
    def on_order(event: Created, context: Context) -> None:
        if event.n == 1 and context.attempt == 1:
            stuck.wait(30)
            lost.append(context.lease_lost)
            with pytest.raises(LeaseLost):
                context.extend(1)
            lost.append(True)
        handled.append(event.n)

    with bus.running():
        bus.publish_many([Created(order="a", n=n) for n in range(4)])
        assert bus.wait_idle(10)
        assert handled == [0, 1, 2, 3]
        stuck.set()
        eventually(lambda: lost == [True, True])
    assert not list(bus.dead_letters("billing"))


def test_extend_moves_the_timeout(bus: Bus) -> None:
    handled: list[int] = []

    @bus.subscribe("orders.*", name="billing", timeout=1, retry=Retry(max_attempts=1))
    def on_order(event: Created, context: Context) -> None:
        context.extend(60)
        threading.Event().wait(1.3)
        handled.append(event.n)

    with bus.running():
        bus.publish(Created(order="a", n=1))
        assert bus.wait_idle(10)
    assert handled == [1]


def test_delayed_events_join_their_keys_order_when_due(bus: Bus, bus_dsn: str) -> None:
    handled: list[int] = []

    @bus.subscribe("orders.*", name="billing")
    def on_order(event: Created) -> None:
        handled.append(event.n)

    with psycopg.connect(bus_dsn, autocommit=True) as connection, bus.running():
        # Nothing that is due is moved as long as somebody else is about to.
        connection.execute("select pg_advisory_lock(1885823605, 0)")
        late = datetime.now(UTC) + timedelta(seconds=5)
        bus.publish(Created(order="a", n=3), at=late)
        bus.publish(Created(order="a", n=2), delay=timedelta(seconds=1))
        bus.publish(Created(order="a", n=1), delay=0)
        assert bus.status()[0].delayed == 2
        connection.execute("select pg_advisory_unlock(1885823605, 0)")
        eventually(lambda: handled == [1, 2, 3])


def test_unroutable(make_bus: Callable[..., Bus], bus_dsn: str) -> None:
    from pgbus import Unroutable

    strict = make_bus(on_unroutable="raise")

    @strict.subscribe("orders.*", name="billing", retry=Retry(max_attempts=2, initial=0.01))
    def on_order(event: Created, context: Context) -> None:
        context.publish("nowhere.at.all", 1)

    strict.declare()
    with pytest.raises(Unroutable, match=r"stock\.low"):
        strict.publish_many([Created(order="a"), Outgoing("stock.low", 1)])
    with psycopg.connect(bus_dsn) as connection:
        connection.execute("create table business (n integer)")
        connection.execute("insert into business values (1)")
        with pytest.raises(Unroutable):
            strict.publish("stock.low", 1, connection=connection)
        strict.publish(Created(order="b"), connection=connection)
    assert strict.status()[0].ready == 1
    with strict.running():
        assert strict.wait_idle(10)
    [letter] = strict.dead_letters("billing")
    assert letter.error_type == "Unroutable"
    assert letter.attempts == 2
    lenient = make_bus()
    assert lenient.publish("stock.low", 1).queues == 0

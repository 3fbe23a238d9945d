"""Handlers that take a list of events."""

import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, NoReturn

import psycopg
import pytest

from pgbus import (
    BatchContext,
    Bus,
    ConfigurationError,
    Context,
    Event,
    Incident,
    Outgoing,
    Reject,
    Retry,
    RetryAfter,
)
from pgbus.model.delivery import Chunk, Message
from pgbus.threads.delivery import Delivery
from pgbus.threads.session import Session
from pgbus.threads.subscription import Hold
from tests.waiting import eventually

QUICK = Retry(max_attempts=3, initial=0.01, maximum=0.02)


class Created(Event, topic="orders.created", key="order"):
    order: str
    n: int = 0


class Cancelled(Event, topic="orders.cancelled", key="order"):
    order: str
    n: int = 0


Order = Created | Cancelled


def orders(keys: int, each: int) -> list[Created]:
    return [Created(order=f"o{key}", n=n) for n in range(each) for key in range(keys)]


def test_a_batch_holds_what_several_takes_brought(bus: Bus, bus_dsn: str) -> None:
    begun, end = threading.Event(), threading.Event()
    batches: list[list[int]] = []

    @bus.subscribe("orders.*", name="billing", batch=10, concurrency=1)
    def handle(events: list[Created]) -> None:
        batches.append([event.n for event in events])
        begun.set()
        assert end.wait(20)

    with bus.running(), psycopg.connect(bus_dsn, autocommit=True) as connection:

        def leased(count: int) -> bool:
            return connection.execute("select from pgbus.lease").rowcount == count

        for n in range(1, 4):
            bus.publish(Created(order=f"o{n}", n=n))
            eventually(partial(leased, n))
            eventually(lambda: bus._subscriptions[0]._in_hand == n)  # noqa: B023
            assert begun.wait(20)
        end.set()
        assert bus.wait_idle(20)
    assert batches == [[1], [2, 3]]


def test_a_batch_holds_what_waits_in_order_within_each_key(bus: Bus) -> None:
    batches: list[list[Order]] = []

    @bus.subscribe("orders.*", name="billing", batch=50, concurrency=3)
    def handle(events: list[Created | Cancelled], context: BatchContext) -> None:
        assert len(events) == len(context) <= 50
        assert [one.key for one in context] == [event.order for event in events]
        batches.append(events)

    bus.declare()
    bus.publish_many([*orders(40, 20), *(Cancelled(order=f"o{n}", n=20) for n in range(40))])
    with bus.running():
        assert bus.wait_idle(20)
    assert max(map(len, batches)) > 10
    seen: dict[str, list[int]] = defaultdict(list)
    for batch in batches:
        for event in batch:
            seen[event.order].append(event.n)
    assert seen == {f"o{n}": list(range(21)) for n in range(40)}


def test_a_batch_is_filled_by_one_key_that_has_enough(bus: Bus) -> None:
    sizes: list[int] = []
    handled: list[int] = []

    @bus.subscribe("orders.*", name="billing", batch=200)
    def handle(events: list[Created]) -> None:
        sizes.append(len(events))
        handled.extend(event.n for event in events)

    bus.declare()
    bus.publish_many(orders(1, 2_000))
    with bus.running():
        assert bus.wait_idle(20)
    assert max(sizes) == 200
    assert handled == list(range(2_000))


def test_a_single_event_is_not_kept_waiting_for_others(bus: Bus) -> None:
    handled = threading.Event()

    @bus.subscribe("orders.*", name="billing")
    def handle(events: list[Created]) -> None:
        assert len(events) == 1
        handled.set()

    with bus.running():
        bus.publish(Created(order="a"))
        assert handled.wait(5)
        assert bus.wait_idle(20)


@pytest.mark.parametrize("transactional", [False, True])
def test_single_events_are_rejected_and_retried(
    bus: Bus, bus_dsn: str, *, transactional: bool
) -> None:
    kept: Counter[tuple[str, int]] = Counter()
    order: dict[str, list[int]] = defaultdict(list)
    incidents: list[Incident] = []
    bus.on_error(incidents.append)
    with psycopg.connect(bus_dsn) as connection:
        connection.execute("create table effects (n integer)")

    def work(events: list[Created], context: BatchContext) -> None:
        again = set()
        for index, event in enumerate(events):
            if event.order == "o1" and event.n == 2:
                context.reject(index, "no such order")
            elif event.order == "o2" and event.n == 2 and context[index].attempt == 1:
                context.retry(index)
                again.add("o2")
            elif event.order == "o3" and event.n == 2 and kept["o3", 2] == 0:
                context.retry(index, after=0.01)
                again.add("o3")
                kept["o3", 2] += 1
            elif event.order not in again:
                order[event.order].append(event.n)

    if transactional:

        @bus.subscribe("orders.*", name="billing", retry=QUICK, concurrency=1)
        def handle_in_transaction(
            events: list[Created], context: BatchContext, connection: psycopg.Connection[Any]
        ) -> None:
            connection.execute("insert into effects values (1)")
            work(events, context)
    else:

        @bus.subscribe("orders.*", name="billing", retry=QUICK, concurrency=1)
        def handle(events: list[Created], context: BatchContext) -> None:
            work(events, context)

    bus.declare()
    bus.publish_many(orders(5, 5))
    with bus.running():
        assert bus.wait_idle(20)
    rest = list(range(5))
    expected = {"o0": rest, "o1": [0, 1, 3, 4], "o2": rest, "o3": rest, "o4": rest}
    # The transaction is rolled back as a whole, and its events come one by one.
    assert {key: seen[-len(expected[key]) :] for key, seen in order.items()} == expected
    assert transactional or order == expected
    [letter] = bus.dead_letters("billing")
    assert (letter.key, letter.error) == ("o1", "Reject: no such order")
    assert Counter(one.kind for one in incidents) == {"dead_letter": 1, "failure": 1}


@pytest.mark.parametrize("transactional", [False, True])
def test_a_bad_event_is_blamed_alone(bus: Bus, bus_dsn: str, *, transactional: bool) -> None:
    attempts: Counter[str] = Counter()
    handled: list[str] = []
    with psycopg.connect(bus_dsn) as connection:
        connection.execute("create table effects (name text)")

    def work(events: list[Created], context: BatchContext) -> list[str]:
        for event, one in zip(events, context, strict=True):
            if event.n == 1 and event.order in ("o3", "o7"):
                attempts[event.order] = max(attempts[event.order], one.attempt)
                raise RuntimeError
        return [f"{event.order}.{event.n}" for event in events]

    if transactional:

        @bus.subscribe("orders.*", name="billing", retry=QUICK, concurrency=2)
        def handle_in_transaction(
            events: list[Created], context: BatchContext, connection: psycopg.Connection[Any]
        ) -> None:
            for name in (f"{event.order}.{event.n}" for event in events):
                connection.execute("insert into effects values (%s)", (name,))
            work(events, context)
    else:

        @bus.subscribe("orders.*", name="billing", retry=QUICK, concurrency=2)
        def handle(events: list[Created], context: BatchContext) -> None:
            handled.extend(work(events, context))

    bus.declare()
    bus.publish_many(orders(10, 3))
    with bus.running():
        assert bus.wait_idle(20)
    letters = list(bus.dead_letters("billing"))
    assert sorted(letter.key or "" for letter in letters) == ["o3", "o7"]
    assert [letter.attempts for letter in letters] == [3, 3]
    assert attempts == {"o3": 3, "o7": 3}
    if transactional:
        with psycopg.connect(bus_dsn) as connection:
            handled = [name for (name,) in connection.execute("select name from effects")]
    good = {f"o{key}.{n}" for n in range(3) for key in range(10)} - {"o3.1", "o7.1"}
    assert sorted(handled) == sorted(good)


def test_what_cannot_be_decoded_harms_no_neighbour(bus: Bus) -> None:
    handled: list[int] = []

    @bus.subscribe("orders.*", name="billing", concurrency=2)
    def handle(events: list[Created]) -> None:
        handled.extend(event.n for event in events)

    bus.declare()
    for n in range(9):
        body: Any = {"order": 7} if n % 3 == 1 else Created(order="a", n=n)
        bus.publish("orders.created", body, key=f"k{n % 2}")
    with bus.running():
        assert bus.wait_idle(20)
    assert sorted(handled) == [0, 2, 3, 5, 6, 8]
    assert len(list(bus.dead_letters("billing"))) == 3


def test_what_a_batch_publishes_appears_once(bus: Bus) -> None:
    follow_ups: list[int] = []
    failed = threading.Event()

    @bus.subscribe("orders.*", name="billing", retry=QUICK)
    def handle(events: list[Created], context: BatchContext) -> None:
        for event, one in zip(events, context, strict=True):
            one.publish("billed", event.n)
        if not failed.is_set():
            failed.set()
            raise RuntimeError

    @bus.subscribe("billed", name="ledger")
    def on_billed(event: int) -> None:
        follow_ups.append(event)

    bus.declare()
    bus.publish_many([Outgoing("orders.created", Created(order=str(n), n=n)) for n in range(30)])
    with bus.running():
        assert bus.wait_idle(20)
    assert sorted(follow_ups) == list(range(30))


@pytest.mark.parametrize("transactional", [False, True], ids=["plain", "transactional"])
def test_what_is_published_for_all_goes_with_the_first_that_is_acknowledged(
    bus: Bus, *, transactional: bool
) -> None:
    """The first of them is rejected; and events that come alone have a context, too."""
    sizes: list[int] = []

    def summarise(events: list[Created], context: BatchContext) -> None:
        if len(events) > 1 and any(event.n == 9 for event in events):
            raise RuntimeError  # they are tried alone
        if len(events) == 3 or events[0].n == 0:
            context.reject(0, "no")
        context.publish("billed", len(events))

    def summarise_within(
        events: list[Created], context: BatchContext, connection: psycopg.Connection[Any]
    ) -> None:
        summarise(events, context)

    chosen: Any = summarise_within if transactional else summarise
    bus.subscribe("orders.*", name="billing", concurrency=1, retry=QUICK)(chosen)

    @bus.subscribe("billed", name="ledger")
    def on_billed(event: int) -> None:
        sizes.append(event)

    bus.declare()
    bus.publish_many([Outgoing("orders.created", Created(order=str(n), n=n)) for n in (1, 2, 3)])
    with bus.running():
        assert bus.wait_idle(20)
        assert sizes == [3]
    bus.publish_many([Outgoing("orders.created", Created(order=str(n), n=n)) for n in (8, 9)])
    with bus.running():
        assert bus.wait_idle(20)
    assert sizes == [3, 1, 1]
    bus.publish("orders.created", Created(order="0", n=0))
    with bus.running():
        assert bus.wait_idle(20)
    assert sizes == [3, 1, 1]


def test_a_context_is_that_of_its_event_however_it_is_asked_for(bus: Bus) -> None:
    keys: list[str | None] = []
    follow_ups: list[str] = []

    @bus.subscribe("orders.*", name="billing", concurrency=1)
    def handle(events: list[Created], context: BatchContext) -> None:
        assert [one.key for one in context] == [event.order for event in events]
        assert list(context)[1:] == context[1:]
        assert context[-1] is context[len(context) - 1]
        keys.extend(one.key for one in context[:3])
        context[1].publish("billed", events[1].order)

    @bus.subscribe("billed", name="ledger")
    def on_billed(event: str) -> None:
        follow_ups.append(event)

    bus.declare()
    bus.publish_many(orders(keys=5, each=1))
    with bus.running():
        assert bus.wait_idle(20)
    assert len(keys) == 3
    assert follow_ups == [keys[1]]


def test_threads_that_ask_at_once_get_the_same_context() -> None:
    chunk = Chunk(1, 1, 1, suspect=False, messages=[])
    message = Message(1, 0, "{}", None, 0, 0, troubled=False)
    asked, introduced = threading.Event(), threading.Event()

    def unasked(*_: object) -> NoReturn:
        raise AssertionError

    def introduce(one: Delivery) -> Context:
        if not asked.is_set():  # while this is made, another thread asks, too
            asked.set()
            others.append(pool.submit(lambda: one.context))
            introduced.wait(0.5)  # which must not be, but might
        else:
            introduced.set()
        return Context(one.message, one.incoming, "billing", one.hold, unasked, unasked)

    others: list[Future[Context]] = []
    delivery = Delivery(Hold(chunk, Session(30)), message, introduce)
    with ThreadPoolExecutor() as pool:
        mine = delivery.context
        assert others[0].result(10) is mine


def test_retry_after_and_timeouts_hold_for_the_whole_batch(bus: Bus) -> None:
    calls: list[int] = []
    opened = threading.Event()

    @bus.subscribe("orders.*", name="billing", retry=QUICK, timeout=1, concurrency=1)
    def handle(events: list[Created]) -> None:
        calls.append(len(events))
        if len(calls) == 1:
            raise RetryAfter(0.05)
        if len(calls) == 2:
            opened.wait(20)

    bus.declare()
    bus.publish_many(orders(4, 1))
    with bus.running():
        eventually(lambda: len(calls) >= 2)
        assert bus.wait_idle(20)
        opened.set()
    assert calls[0] == 4
    assert list(bus.dead_letters("billing")) == []


def test_a_batch_that_takes_too_long_is_blamed_on_none_of_its_events(bus: Bus) -> None:
    alone: Counter[str] = Counter()
    stuck = threading.Event()

    @bus.subscribe("orders.*", name="billing", timeout=60, concurrency=1, retry=QUICK)
    def handle(events: list[Created], context: BatchContext) -> None:
        if len(events) > 1:
            context.extend(0.3)
            stuck.wait(30)
        [event] = events
        alone[event.order] += 1
        if event.order == "bad":
            raise ValueError

    bus.declare()
    bus.publish_many([Created(order=order) for order in ("a", "bad", "c", "c")])
    try:
        with bus.running():
            assert bus.wait_idle(20)
    finally:
        stuck.set()
    assert alone == {"a": 1, "bad": QUICK.max_attempts, "c": 2}
    [letter] = bus.dead_letters("billing")
    assert letter.error_type == "ValueError"


def test_async_batches(bus: Bus) -> None:
    handled: list[int] = []

    @bus.subscribe("orders.*", name="billing")
    async def handle(events: list[Created], context: BatchContext) -> None:
        handled.extend(event.n for event in events)
        context.reject(0, "the first")

    with bus.running():
        bus.publish(Created(order="a", n=1))
        assert bus.wait_idle(10)
    assert handled == [1]
    [letter] = bus.dead_letters("billing")
    assert letter.error_type == Reject.__name__


def test_a_list_without_events_is_a_json_array(bus: Bus) -> None:
    seen: list[object] = []

    @bus.subscribe("numbers", name="plain")
    def plain(event: list[int]) -> None:
        seen.append(event)

    @bus.subscribe("numbers", name="batched", batch=10)
    def batched(events: list[list[int]]) -> None:
        seen.append(("batch", events))

    with bus.running():
        bus.publish("numbers", [1, 2])
        assert bus.wait_idle(10)
    assert sorted(seen, key=str) == [("batch", [[1, 2]]), [1, 2]]


def _with_context(events: list[Created], context: Context) -> None: ...


def _single(event: Created, context: BatchContext) -> None: ...


def _no_list(event: Created) -> None: ...


@pytest.mark.parametrize(
    ("function", "options", "said"),
    [
        (_with_context, {}, "'context' is a BatchContext"),
        (_single, {}, "'context' is a Context"),
        (_no_list, {"batch": 10}, r"annotate its events as list\[…\]"),
        (_no_list, {"batch": 0}, "batch=0"),
        (_no_list, {"batch": 2.5}, "batch=2.5"),
    ],
)
def test_misuse(
    bus: Bus, function: Callable[..., None], options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said):
        bus.subscribe("orders.*", name="billing", **options)(function)


def test_a_batch_that_takes_too_long_holds_up_none_that_was_to_come_alone(
    bus: Bus, bus_dsn: str
) -> None:
    """What had failed before waits beside the batch, for a thread that is given up."""
    stuck = threading.Event()
    calls: list[list[str]] = []

    @bus.subscribe("orders.*", name="billing", concurrency=1, timeout=60, retry=QUICK)
    def handle(events: list[Created], context: BatchContext) -> None:
        calls.append([event.order for event in events])
        if len(calls) == 1:
            context.extend(0.3)
            stuck.wait(30)

    bus.declare()
    bus.publish_many([Created(order=name) for name in "ab"])
    with psycopg.connect(bus_dsn, autocommit=True) as sql:
        sql.execute(
            "insert into pgbus.attempt (subscription, msg_id, failures) "
            "select s.id, m.msg_id, 1 from pgbus.subscription s, pgmq.q_billing m "
            "where m.message ->> 'order' = 'a'"
        )
    try:
        with bus.running():
            assert bus.wait_idle(10)
    finally:
        stuck.set()
    assert calls[0] == ["b"]
    assert sorted(calls[1:]) == [["a"], ["b"]]

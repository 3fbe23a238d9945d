"""Publishing by remembered routes does what publishing by the server's decision does."""

import itertools
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from uuid import UUID

import pytest

from pgbus import Bus, Outgoing, Receipt, StoreError, Unroutable
from pgbus.store import put
from pgbus.store.publish import _route
from pgbus.threads.publisher import PART
from tests.store.queue import Connection, Queue
from tests.waiting import eventually

ROUTES = {
    "a": ("billing",),
    "b": ("billing", "shipping"),
    "c": ("shipping",),
    "d": ("billing", "reports"),
    "e": (),
}
NAMES = ("billing", "shipping", "reports")


@pytest.fixture
def shops(connection: Connection) -> Connection:
    """Two subscriptions and a queue that is nobody's, bound as ROUTES says."""
    Queue(connection, "billing")
    Queue(connection, "shipping")
    connection.execute("select pgmq.create('reports')")
    for topic, names in ROUTES.items():
        for name in names:
            connection.execute("select pgmq.bind_topic(%s, %s)", (topic, name))
    return connection


def stored(connection: Connection, *names: str) -> dict[str, list[str]]:
    """The bodies in each queue, oldest first."""
    found = {}
    for name in names or NAMES:
        rows = connection.execute(f"select message #>> '{{}}' from pgmq.q_{name} order by msg_id")
        found[name] = [body for (body,) in rows.fetchall()]
    return found


COMBINATIONS = [
    topics for count in (1, 2, 3) for topics in itertools.combinations(sorted(ROUTES), count)
]


def test_every_event_goes_to_its_own_queues_whatever_is_remembered(
    bus: Bus, shops: Connection
) -> None:
    wanted: dict[str, list[str]] = {name: [] for name in NAMES}
    for turn, topics in enumerate([*COMBINATIONS, *COMBINATIONS]):
        events = [
            Outgoing(topic, f"{turn} {topic} {n}", key=str(n)) for n in (1, 2) for topic in topics
        ]
        receipts = bus.publish_many(events)
        assert [one.queues for one in receipts] == [len(ROUTES[event.topic]) for event in events]
        for event in events:
            for name in ROUTES[event.topic]:
                wanted[name].append(event.payload)
    assert stored(shops) == wanted


def test_single_events_go_to_their_own_queues(bus: Bus, shops: Connection) -> None:
    for turn in range(3):
        for topic, names in ROUTES.items():
            assert bus.publish(topic, f"{turn} {topic}").queues == len(names)
    for name in NAMES:
        topics = [topic for topic in ROUTES if name in ROUTES[topic]]
        assert stored(shops)[name] == [f"{turn} {topic}" for turn in range(3) for topic in topics]


@pytest.mark.parametrize("most", [put.MOST_QUEUES, 19])
def test_an_event_is_stored_in_each_of_many_queues(
    bus: Bus, connection: Connection, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """In one statement that calls for each, or by the server's decision beyond so many."""
    monkeypatch.setattr(put, "MOST_QUEUES", most)
    names = [f"queue_{n}" for n in range(20)]
    for name in names:
        Queue(connection, name)
        connection.execute("select pgmq.bind_topic('a', %s)", (name,))
    receipts = [bus.publish("a", "1"), bus.publish("a", "2")]
    receipts += bus.publish_many([Outgoing("a", "3"), Outgoing("a", "4")])
    assert [one.queues for one in receipts] == [20] * 4
    assert stored(connection, *names) == {name: ["1", "2", "3", "4"] for name in names}


@pytest.mark.parametrize("inside", [True, False], ids=["in a transaction", "alone"])
def test_nothing_of_a_call_is_stored_where_one_event_leads_nowhere(
    make_bus: Callable[..., Bus], shops: Connection, inside: bool
) -> None:
    bus = make_bus(on_unroutable="raise")
    bus.publish("a", "0")
    for _ in range(3):
        with shops.transaction(), pytest.raises(Unroutable, match="matches e;"):
            bus.publish_many(
                [Outgoing("a", "1"), Outgoing("e", "2"), Outgoing("b", "3")],
                connection=shops if inside else None,
            )
    assert stored(shops) == {"billing": ["0"], "shipping": [], "reports": []}


def test_what_is_remembered_of_a_dropped_subscription_is_used_no_more(
    bus: Bus, make_bus: Callable[..., Bus], shops: Connection
) -> None:
    for _ in range(2):
        assert bus.publish_many([Outgoing("b", "1"), Outgoing("c", "2")])[0].queues == 2
    make_bus().drop_subscription("shipping", force=True)
    assert [one.queues for one in bus.publish_many([Outgoing("b", "3"), Outgoing("c", "4")])] == [
        1,
        0,
    ]
    Queue(shops, "shipping")
    shops.execute("select pgmq.bind_topic('c', 'shipping')")
    assert [one.queues for one in bus.publish_many([Outgoing("b", "5"), Outgoing("c", "6")])] == [
        1,
        1,
    ]
    assert stored(shops) == {"billing": ["1", "1", "3", "5"], "shipping": ["6"], "reports": []}


def test_puts_go_by_the_queues_in_one_order() -> None:
    assert _route("billing,shipping,audit", "10,9,2").subscriptions == (2, 9, 10)


NOTED = """
create table noted (n integer generated always as identity, queue name);
create function note() returns trigger language plpgsql as
$$ begin insert into public.noted (queue) values (tg_table_name); return null; end $$;
create trigger note after insert on pgmq.q_alpha for each row execute function note();
create trigger note after insert on pgmq.q_zeta for each row execute function note();
"""


@pytest.mark.parametrize("how", ["remembered", "with an id", "not remembered", "due"])
def test_whatever_stores_goes_by_the_queues_in_one_order(
    make_bus: Callable[..., Bus], connection: Connection, how: str
) -> None:
    """What hangs on inserts, as pgmq's notifications, may lock something until the commit."""
    for name in ("zeta", "alpha"):
        Queue(connection, name)
        connection.execute("select pgmq.bind_topic('a', %s)", (name,))
    bus = make_bus()
    bus.publish("a", 1)
    connection.execute(NOTED)
    match how:
        case "remembered":
            bus.publish("a", 1)
        case "with an id":
            bus.publish("a", 1, id=UUID(int=1))
        case "not remembered":
            make_bus().publish("a", 1)
        case "due":
            bus.publish("a", 1, delay=0.001)
            eventually(lambda: connection.execute("select pgbus.promote(9)").fetchone() == (1,))
    rows = connection.execute("select queue from noted order by n").fetchall()
    assert rows == [("q_zeta",), ("q_alpha",)]


def test_an_id_is_not_remembered_where_the_route_holds_no_longer(
    bus: Bus, shops: Connection
) -> None:
    bus.publish("a", "0")
    shops.execute("select pgmq.bind_topic('a', 'shipping')")
    receipt = bus.publish("a", "1", id=UUID(int=1))
    assert (receipt.queues, receipt.duplicate) == (2, False)
    assert stored(shops, "billing", "shipping") == {"billing": ["0", "1"], "shipping": ["1"]}


COUNTS = pytest.mark.parametrize("count", [1, 2, 2 * PART], ids=["one", "some", "long"])


def drop_amid_a_publish(
    bus: Bus,
    shops: Connection,
    another: Callable[[], Connection],
    aside: ThreadPoolExecutor,
    count: int,
    inside: Connection | None = None,
) -> "Future[list[Receipt]]":
    """Have a publish that remembers where to wait for `billing` until `shipping` is dropped."""
    bus.publish("b", "0")
    locking = another()
    with locking.transaction():
        locking.execute("lock table pgmq.q_billing in access exclusive mode")
        publishing = aside.submit(
            bus.publish_many,
            [Outgoing("b", f"{n}") for n in range(1, count + 1)],
            connection=inside,
        )
        waits = "select from pg_locks where relation = 'pgmq.q_billing'::regclass and not granted"
        eventually(lambda: shops.execute(waits).rowcount == 1)
        shops.execute("select pgbus.drop_subscription('shipping', true)")
    return publishing


@COUNTS
def test_a_publish_amid_which_a_subscription_is_dropped_stores_each_event_once(
    bus: Bus,
    shops: Connection,
    another: Callable[[], Connection],
    aside: ThreadPoolExecutor,
    count: int,
) -> None:
    publishing = drop_amid_a_publish(bus, shops, another, aside, count)
    assert [one.queues for one in publishing.result()] == [1] * count
    assert stored(shops, "billing") == {"billing": [f"{n}" for n in range(count + 1)]}


@COUNTS
def test_in_a_callers_transaction_it_is_refused_and_stores_nothing(
    bus: Bus,
    shops: Connection,
    another: Callable[[], Connection],
    aside: ThreadPoolExecutor,
    count: int,
) -> None:
    publishing = drop_amid_a_publish(bus, shops, another, aside, count, another())
    with pytest.raises(StoreError, match="dropped or renamed") as refused:
        publishing.result()
    assert not refused.value.outcome_unknown
    assert stored(shops, "billing") == {"billing": ["0"]}
    assert bus.publish("b", "again").queues == 1

"""What leases cost must not depend on the backlog, whatever the planner believes of it."""

from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from pgbus import Bus
from pgbus.model.delivery import FIRST_LANE, Chunk
from pgbus.store import leases, workers
from pgbus.store.handling import acknowledgement
from pgbus.store.leases import Take
from pgbus.store.query import run
from tests.servers import Server
from tests.store.meter import buffers, explained, metered
from tests.store.queue import Connection, Queue
from tests.store.worker import Worker, done

LANE, PRIMARY = "pgbus_lane_billing", "q_billing_pkey"
BACKLOG, KEYS = 200_000, 4_000


def still(connection: Connection, *tables: str) -> None:
    """Keep autovacuum from gathering statistics at a moment of its own."""
    for table in tables:
        connection.execute(f"alter table {table} set (autovacuum_enabled = off)")


def lone_queue(connection: Connection) -> Queue:
    queue = Queue(connection)
    still(connection, "pgmq.q_billing", "pgbus.lease", "pgbus.attempt", "pgbus.scheduled")
    return queue


@pytest.fixture(scope="module")
def long_backlog(server: Server, installed_template: str) -> Iterator[str]:
    """A database to copy: 200,000 events of 4,000 keys, analyzed."""
    dsn = server.create_database(installed_template)
    with psycopg.connect(dsn, autocommit=True) as connection:
        lone_queue(connection).fill(BACKLOG, KEYS)
        connection.execute("analyze pgmq.q_billing")
    yield str(conninfo_to_dict(dsn)["dbname"])
    server.drop_database(dsn)


@pytest.fixture(
    params=["fresh", "grown unnoticed", "shrunk unnoticed", "of one key before", "long"]
)
def any_queue(
    request: pytest.FixtureRequest,
    new_database: Callable[[str], str],
    installed_template: str,
    long_backlog: str,
    connect: Callable[[str], Connection],
) -> Queue:
    """Queues of which the planner knows nothing, the wrong thing, or the truth."""
    big = request.param in ("long", "shrunk unnoticed")
    connection = connect(new_database(long_backlog if big else installed_template))
    queue = lone_queue(connection)
    match request.param:
        case "fresh":
            queue.fill(1_000, keys=500)
        case "grown unnoticed":
            connection.execute("analyze")
            queue.fill(20_000, keys=4_000)
        case "of one key before":
            queue.fill(20_000, keys=1)
            connection.execute("analyze")
            connection.execute("truncate pgmq.q_billing")
            queue.fill(20_000, keys=4_000)
        case "shrunk unnoticed":
            connection.execute("delete from pgmq.q_billing where msg_id > 1000")
            connection.execute("vacuum pgmq.q_billing")
    return queue


@pytest.mark.parametrize("lanes", [10, 300])
@pytest.mark.parametrize("by_arrival", [False, True])
def test_taking_and_settling_use_their_indexes_alone(
    any_queue: Queue, by_arrival: bool, lanes: int
) -> None:
    worker = Worker(any_queue.connection, any_queue)
    start = FIRST_LANE
    for _ in range(7):  # beyond the fifth execution a plan may become generic
        wish = worker.wish(
            by_arrival=by_arrival, start=start, visits=2 * lanes, lanes=lanes, quantity=2
        )
        with metered(worker.connection) as reading:
            taken = leases.take(worker.connection, wish)
        assert reading.scanned == {}
        arrival = {PRIMARY} if by_arrival else set()
        assert set(reading.used) <= {LANE, "lease_pkey", "attempt_pkey"} | arrival
        assert reading.used[LANE] <= 5 * lanes + 50
        assert reading.used.get(PRIMARY, 0) <= 3 * lanes
        if by_arrival and taken.resume is not None:
            start = taken.resume
        chunks, _ = taken.read()
        if len(chunks) < 3:
            break
        with metered(worker.connection) as reading:
            settle_mixed(worker, chunks)
        assert reading.scanned == {}
        assert set(reading.used) == {PRIMARY, "lease_pkey", "attempt_pkey"}


@pytest.mark.parametrize("by_arrival", [False, True])
def test_explain_shows_neither_a_scan_nor_a_sort_of_the_backlog(
    any_queue: Queue, by_arrival: bool
) -> None:
    lanes = 10
    worker = Worker(any_queue.connection, any_queue)
    wish = worker.wish(by_arrival=by_arrival, visits=2 * lanes, lanes=lanes, quantity=2)
    with explained(any_queue.connection) as nodes:
        chunks, _ = leases.take(any_queue.connection, wish).read()
        settle_mixed(worker, chunks)
    read = [node for node in nodes if node.get("Relation Name") in ("q_billing", "lease")]
    kinds = {node["Node Type"] for node in read}
    assert {"Index Scan", "ModifyTable"} <= kinds
    assert kinds <= {"Index Scan", "Index Only Scan", "Tid Scan", "ModifyTable"}
    sorted_rows = [
        node["Actual Rows"] * node["Actual Loops"] for node in nodes if "Sort" in node["Node Type"]
    ]
    assert max(sorted_rows) <= 5 * lanes


@pytest.mark.parametrize("kind", ["unordered", "parking", "parking behind one key"])
def test_other_kinds_of_subscriptions_use_their_indexes_alone(
    kind: str,
    new_database: Callable[[str], str],
    installed_template: str,
    connect: Callable[[str], Connection],
) -> None:
    connection = connect(new_database(installed_template))
    queue = Queue(connection, ordered=kind != "unordered", park=kind != "unordered")
    still(connection, "pgmq.q_billing", "pgmq.q_billing_dlq", "pgbus.lease", "pgbus.attempt")
    connection.execute("analyze")
    queue.fill(20_000, keys=4_000)
    one = kind == "parking behind one key"
    connection.execute(
        "insert into pgmq.q_billing_dlq (vt, message, headers) select clock_timestamp(), '1', "
        "jsonb_build_object('pgbus-dead', jsonb_build_object('msg_id', -n, 'lane', -n / %s)) "
        "from generate_series(1, 5000) n",
        [5001 if one else 1],
    )
    if one:
        connection.execute("analyze pgmq.q_billing_dlq")
    worker = Worker(connection, queue)
    for number in range(14):
        wish = worker.wish(by_arrival=number % 2 == 0, visits=60, lanes=30, quantity=2)
        with metered(connection) as reading:
            chunks, _ = leases.take(connection, wish).read()
        assert len(chunks) == 30
        assert reading.scanned == {}
        assert reading.total <= 500
        assert (LANE in reading.used) == (kind != "unordered")
        with metered(connection) as reading:
            settle_mixed(worker, chunks)
        assert reading.scanned == {}
        assert reading.total <= 500


def settle_mixed(worker: Worker, chunks: list[Chunk]) -> None:
    """Acknowledge most; keep a lane, retry one, make a dead letter of one."""
    settlements = [done(chunk) for chunk in chunks]
    kept, again, dead = settlements[:3]
    kept.release = False
    again.done, again.again = [], (again.done[0], 60.0, "failure")
    dead.done, dead.dead = [], [(dead.done[0], '{"tried": 1}')]
    dead.troubled = True
    assert len(worker.settle(*settlements)) == len(chunks)


@pytest.mark.parametrize("release", [True, False])
def test_acknowledging_within_a_transaction_uses_its_indexes_alone(
    any_queue: Queue, release: bool
) -> None:
    connection = any_queue.connection
    worker = Worker(connection, any_queue)
    connection.deferrable = True
    for chunk in worker.take(worker.wish(lanes=7)).chunks:
        lane = done(chunk, release=release)
        del lane.done[1:]
        with metered(connection) as reading:
            connection.execute(acknowledgement(any_queue.name, worker.id, lane))
        assert reading.scanned == {}
        assert reading.total <= 10


def test_burying_uses_its_indexes_alone(any_queue: Queue) -> None:
    worker = Worker(any_queue.connection, any_queue)
    worker.take(worker.wish(lanes=400, quantity=2))
    worker.expire()
    with metered(any_queue.connection) as reading:
        run(any_queue.connection, workers.reap())
    assert not {"q_billing", "attempt"} & set(reading.scanned)
    assert reading.used[LANE] <= 400 * 3


def cost(queue: Queue, *, by_arrival: bool = False) -> tuple[int, int, int]:
    """What a take of 10 keys with 10 events each reads, its settlement reads, and it touches."""
    worker = Worker(queue.connection, queue)

    def ten() -> Take:
        return worker.wish(by_arrival=by_arrival, visits=10, lanes=10)

    # Once before: the first call also reads the catalog.
    worker.finish(*worker.take(ten()).chunks)
    wish = ten()
    with metered(queue.connection) as taking:
        chunks, _ = leases.take(queue.connection, wish).read()
    assert [len(chunk.messages) for chunk in chunks] == [10] * 10
    with metered(queue.connection) as settling:
        worker.finish(*chunks)
    return (
        taking.total,
        settling.total,
        buffers(queue.connection, *leases.taking(ten())),
    )


@pytest.mark.parametrize(
    "backlog", ["many keys", "many keys, by arrival", "one key in flight in front"]
)
def test_a_lease_costs_as_much_in_a_long_backlog_as_in_a_short_one(
    backlog: str,
    queue: Queue,
    new_database: Callable[[str], str],
    long_backlog: str,
    connect: Callable[[str], Connection],
) -> None:
    queue.fill(1_000, keys=50)
    crowded = Queue(connect(new_database(long_backlog)))
    if backlog == "one key in flight in front":
        make_hot(crowded, "k1", 100_000)
        holder = Worker(crowded.connection, crowded)
        holder.take(holder.wish(start=crowded.lane("k1"), lanes=1))
        make_hot(queue, "k1", 1)
    by_arrival = backlog.endswith("by arrival")
    short, long = cost(queue, by_arrival=by_arrival), cost(crowded, by_arrival=by_arrival)
    assert long[0] <= short[0] + 10
    assert long[1] <= short[1] + 10
    assert long[2] <= 2 * short[2]  # the indexes are a level or two deeper


def make_hot(queue: Queue, key: str, events: int) -> None:
    """Let a key have so many events, the oldest of all."""
    queue.connection.execute(
        "insert into pgmq.q_billing (msg_id, vt, message, headers) overriding system value "
        "select -n, clock_timestamp(), '1', jsonb_build_object('x-pgmq-group', %s::text) "
        "from generate_series(1, %s) n",
        (key, events),
    )


@pytest.mark.parametrize("waiting", ["visible", "delayed", "delayed unnoticed", "scheduled"])
def test_an_idle_look_costs_the_same_whatever_waits(
    waiting: str,
    new_database: Callable[[str], str],
    installed_template: str,
    connect: Callable[[str], Connection],
) -> None:
    queue = lone_queue(connect(new_database(installed_template)))
    if waiting == "delayed unnoticed":
        queue.fill(20_000, keys=10)
        queue.connection.execute("analyze")
        queue.connection.execute("truncate pgmq.q_billing")
    statement = {
        "visible": "insert into pgmq.q_billing (vt, message) select clock_timestamp(), '1'",
        "delayed": "insert into pgmq.q_billing (vt, message) select 'infinity', '1'",
        "scheduled": "insert into pgbus.scheduled (due_at, queues, body, headers) "
        "select '2999-12-31', '{billing}', '1', '{}'",
    }[waiting.removesuffix(" unnoticed")]
    queue.connection.execute(f"{statement} from generate_series(1, 20000)")
    if waiting != "delayed unnoticed":
        queue.connection.execute("analyze")
    with metered(queue.connection) as reading:
        run(queue.connection, leases.poll([queue.number], sleepy=[]))
    assert reading.total <= 100


@pytest.mark.parametrize("statistics", ["none", "of one binding", "true"])
@pytest.mark.parametrize("other", ["'other' || n || '.*.placed'", "'orders.*.other' || n"])
def test_a_topic_nobody_remembers_is_looked_up_among_few_bindings(
    bus: Bus, queue: Queue, statistics: str, other: str
) -> None:
    connection = queue.connection
    still(connection, "pgmq.topic_bindings")
    connection.execute("select pgmq.bind_topic('orders.*.placed', 'billing')")
    if statistics == "of one binding":
        connection.execute("analyze pgmq.topic_bindings")
    connection.execute(
        f"insert into pgmq.topic_bindings (pattern, queue_name) select {other}, 'billing' "
        "from generate_series(1, 10000) n".encode()
    )
    if statistics == "true":
        connection.execute("analyze pgmq.topic_bindings")
    for number in range(7):  # beyond the fifth execution a plan may become generic
        with metered(connection) as reading:
            receipt = bus.publish(f"orders.{number}.placed", 1, connection=connection)
        assert receipt.queues == 1
        assert "topic_bindings" not in reading.scanned
        assert reading.used["pgbus_bindings_by_ends"] <= 2


def test_a_heartbeat_moves_no_index(queue: Queue) -> None:
    worker = Worker(queue.connection, queue)
    with queue.connection.transaction():
        for _ in range(5):
            assert worker.heartbeat()
        row = queue.connection.execute(
            "select pg_stat_get_xact_tuples_hot_updated('pgbus.worker'::regclass)"
        ).fetchone()
    assert row == (5,)

"""Settling: what a worker still owns is done, the rest is as if it had said nothing."""

from collections.abc import Callable
from datetime import MAXYEAR, MINYEAR, UTC, datetime, timedelta
from functools import partial

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from pgbus import Bus
from pgbus.errors import LeaseLost
from pgbus.store import leases, workers
from pgbus.store.handling import begin_handling, end_handling
from pgbus.store.query import run
from pgbus.store.settle import LaneSettlement, settle
from tests.proxy import FaultProxy
from tests.store.queue import Connection, Queue
from tests.store.worker import Worker, done, ids
from tests.waiting import eventually

Another = Callable[[], Connection]


@pytest.fixture
def worker(another: Another, queue: Queue) -> Worker:
    return Worker(another(), queue)


def effects(queue: Queue) -> int:
    return len(queue.connection.execute("select n from effect").fetchall())


def test_only_the_lanes_still_owned_are_touched(
    another: Another, queue: Queue, worker: Worker
) -> None:
    kinds = ("done", "again", "dead")
    queue.send(*(f"{kind}-{fate}" for fate in ("kept", "lost") for kind in kinds))
    chunks = worker.take().chunks
    by_lane = {chunk.lane: chunk for chunk in chunks}
    lost = [queue.lane(f"{kind}-lost") for kind in kinds]
    queue.connection.execute(
        "update pgbus.lease set worker = 1, token = 1 where lane = any (%s)", (lost,)
    )
    settlements = []
    for fate in ("kept", "lost"):
        for kind in kinds:
            chunk = by_lane[queue.lane(f"{kind}-{fate}")]
            msg_id = chunk.messages[0].msg_id
            one = LaneSettlement(chunk.lane, chunk.token, release=True)
            if kind == "done":
                one.done = [msg_id]
            elif kind == "again":
                one.again = (msg_id, 60.0, "failure")
            else:
                one.dead = [(msg_id, '{"tried": 1}')]
            settlements.append(one)

    assert worker.settle(*settlements) == {queue.lane(f"{kind}-kept") for kind in kinds}
    assert queue.ids() == [2, 4, 5, 6]
    assert queue.letters() == [3]
    assert queue.attempts() == {2: (1, 0, 0, 0)}
    assert queue.leases() == dict.fromkeys(lost, (1, 1))
    waiting = queue.connection.execute(
        "select msg_id from pgmq.q_billing where vt > clock_timestamp()"
    ).fetchall()
    assert waiting == [(2,)]


def test_a_batch_that_fails_in_the_middle_settles_at_once(queue: Queue, worker: Worker) -> None:
    queue.send(*"kkkkk")
    [chunk] = worker.take().chunks
    settlement = LaneSettlement(
        chunk.lane, chunk.token, release=True, done=[1, 2], again=(3, 60.0, "failure")
    )
    assert worker.settle(settlement) == {chunk.lane}
    assert queue.ids() == [3, 4, 5]
    assert worker.take().chunks == []  # its successors wait behind it
    queue.connection.execute("update pgmq.q_billing set vt = clock_timestamp()")
    [again] = worker.take().chunks
    assert [message.msg_id for message in again.messages] == [3, 4, 5]
    assert [message.attempt for message in again.messages] == [2, 1, 1]
    assert again.messages[0].troubled
    assert worker.finish(again) == {again.lane}
    assert queue.attempts() == {}


def test_a_lane_that_is_kept_stays_leased_under_the_same_token(
    another: Another, queue: Queue, worker: Worker
) -> None:
    queue.send(*"kkk")
    [chunk] = worker.take().chunks
    first = LaneSettlement(chunk.lane, chunk.token, release=False, done=[1])
    assert worker.settle(first) == {chunk.lane}
    assert queue.leases() == {chunk.lane: (worker.id, chunk.token)}
    assert Worker(another(), queue).take().chunks == []
    rest = LaneSettlement(chunk.lane, chunk.token, release=True, done=[2, 3])
    assert worker.settle(rest) == {chunk.lane}
    assert queue.ids() == []
    assert queue.leases() == {}


def test_a_settlement_repeated_after_a_lost_reply_does_no_harm(
    another: Another, queue: Queue, worker: Worker, way: FaultProxy
) -> None:
    queue.send(*"kkkl")
    chunk, other = sorted(worker.take().chunks, key=lambda one: one.messages[0].msg_id)
    settlement = LaneSettlement(
        chunk.lane, chunk.token, release=True, done=[1], dead=[(2, '{"tried": 1}')]
    )
    way.lose_reply(b"settle_billing")
    with psycopg.connect(way.dsn, autocommit=True) as doomed:
        broken = settle(queue.name, worker.id, [settlement, done(other)])
        with pytest.raises(psycopg.OperationalError):
            run(doomed, broken)
    assert way.lost_replies == 1
    # Meanwhile somebody else has the key, and a new event of the other came.
    [late] = queue.send("l")
    [next_one] = Worker(another(), queue).take().chunks[:1]
    before = (queue.ids(), queue.leases(), queue.letters(), queue.attempts())
    assert before[0] == [3, late]
    assert worker.settle(settlement, done(other)) == set()
    assert (queue.ids(), queue.leases(), queue.letters(), queue.attempts()) == before
    assert next_one.lane in queue.leases()
    assert queue.letters() == [2]


def test_a_take_whose_reply_was_lost_is_given_back_by_its_token(
    another: Another, queue: Queue, worker: Worker, way: FaultProxy
) -> None:
    queue.send("k", "l", "m")
    [known] = worker.take(worker.wish(lanes=1)).chunks
    wish = worker.wish()
    way.lose_reply(b"take_billing")
    with (
        psycopg.connect(way.dsn, autocommit=True) as doomed,
        pytest.raises(psycopg.OperationalError),
    ):
        leases.take(doomed, wish)
    assert len(queue.leases()) == 3
    successor = Worker(another(), queue)
    assert successor.take().chunks == []
    assert run(worker.connection, workers.forget(worker.id, [wish.token])) == 2
    assert run(worker.connection, workers.forget(worker.id, [wish.token])) == 0
    assert queue.leases() == {known.lane: (worker.id, known.token)}
    assert len(successor.take().chunks) == 2
    assert queue.attempts() == {}


def test_a_running_bus_gives_back_what_a_take_won_whose_reply_was_lost(
    way: FaultProxy, queue: Queue
) -> None:
    handled: list[int] = []
    with Bus(way.dsn, lease=3) as bus:

        @bus.subscribe("orders.#", name="billing")
        def on_order(event: int) -> None:
            handled.append(event)

        bus.declare()
        for n in range(3):
            bus.publish("orders.created", n, key="k")
        way.lose_reply(b"take_billing")
        with bus.running():
            eventually(lambda: handled == [0, 1, 2])
            assert way.lost_replies == 1
            assert bus.wait_idle()
    assert queue.attempts() == {}  # nobody had died of it


def test_the_byte_limit_leaves_no_lease_behind(queue: Queue, worker: Worker) -> None:
    queue.connection.execute(
        "select pgmq.send('billing', to_jsonb(md5(n::text) || md5(n::text)), "
        "jsonb_build_object('x-pgmq-group', 'k' || n % 4)) from generate_series(1, 12) n"
    )
    handled: list[int] = []
    for _ in range(12):
        taken = worker.take(worker.wish(size=200))
        handled += [number for chunk in ids(taken) for number in chunk]
        assert len(handled) > 0
        worker.finish(*taken.chunks)
        worker.settle(*(LaneSettlement(lane, worker.token, release=True) for lane in taken.empty))
        assert queue.leases() == {}
    assert sorted(handled) == list(range(1, 13))


def test_a_body_larger_than_the_limit_comes_alone(queue: Queue, worker: Worker) -> None:
    queue.connection.execute(
        "select pgmq.send('billing', to_jsonb(repeat('x', 5000)), "
        """'{"x-pgmq-group": "k"}'::jsonb) from generate_series(1, 3)"""
    )
    taken = worker.take(worker.wish(size=1))
    assert ids(taken) == [[1]]
    assert taken.empty == []


def test_a_moment_beyond_those_of_python_keeps_no_event_back(queue: Queue, worker: Worker) -> None:
    queue.send("k", "l", "m")
    for number, moment in ((2, "infinity"), (3, "-infinity")):
        queue.connection.execute(
            "update pgmq.q_billing set enqueued_at = %s where msg_id = %s", (moment, number)
        )
    chunks = worker.take().chunks
    moments = {
        message.msg_id: message.enqueued_at for [message] in (one.messages for one in chunks)
    }
    assert abs(datetime.now(UTC) - moments[1]) < timedelta(minutes=5)
    assert (moments[2].year, moments[3].year) == (MAXYEAR, MINYEAR)


def test_a_body_that_cannot_be_made_text_of_is_told_by_its_id(queue: Queue, worker: Worker) -> None:
    queue.send("k")
    queue.connection.execute(
        "insert into pgmq.q_billing (vt, message, headers) select clock_timestamp(), "
        "('[' || repeat('1e131071,', 8999) || '1]')::jsonb, "
        """'{"x-pgmq-group": "l"}'::jsonb"""
    )
    with pytest.raises(psycopg.errors.ProgramLimitExceeded):
        worker.take()
    assert queue.leases() == {}
    chunks = worker.take(worker.wish(careful=True)).chunks
    bodies = {message.msg_id: message.body for chunk in chunks for message in chunk.messages}
    assert bodies == {1: "{}", 2: None}


@pytest.mark.parametrize("batch", [False, True])
def test_a_handler_that_ends_its_transaction_is_noticed(
    queue: Queue, worker: Worker, batch: bool
) -> None:
    queue.send(*"kl" if batch else "k")
    lanes = [done(chunk) for chunk in worker.take().chunks]
    held = queue.leases()
    connection = worker.connection
    end = partial(end_handling, connection, queue.name, worker.id, lanes)

    def refuses() -> None:
        with pytest.raises(psycopg.errors.InvalidTransactionTermination):
            end()

    begin_handling(connection)
    connection.execute("create table effect ()")
    connection.execute("commit")
    refuses()
    connection.execute("begin")
    refuses()
    connection.execute("rollback")
    assert len(queue.ids()) == len(lanes)
    assert queue.leases() == held
    begin_handling(connection)
    with connection.transaction():
        connection.execute("create table another ()")
    end()
    assert connection.info.transaction_status == TransactionStatus.IDLE
    assert queue.ids() == []
    assert queue.leases() == {}


def test_what_ends_a_handlers_transaction_begins_the_next(queue: Queue, worker: Worker) -> None:
    queue.send(*"kl")
    first, second = (done(chunk) for chunk in worker.take().chunks)
    connection = worker.connection
    connection.execute("create table effect (n integer)")
    begin_handling(connection)
    connection.execute("insert into effect values (1)")
    end_handling(connection, queue.name, worker.id, [first], more=True)
    connection.execute("insert into effect values (2)")
    assert effects(queue) == 1
    end_handling(connection, queue.name, worker.id, [second])
    assert effects(queue) == 2
    assert queue.ids() == []
    assert queue.leases() == {}


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("more", [False, True])
def test_nothing_is_committed_of_a_handler_that_lost_its_lease(
    another: Another, queue: Queue, worker: Worker, *, batch: bool, more: bool
) -> None:
    queue.send(*"kl" if batch else "k")
    lanes = [done(chunk) for chunk in worker.take().chunks]
    worker.connection.execute("create table effect (n integer)")
    worker.die()
    heir = Worker(another(), queue)
    taken = heir.take().chunks
    begin_handling(worker.connection)
    worker.connection.execute("insert into effect values (1)")
    with pytest.raises(LeaseLost):
        end_handling(worker.connection, queue.name, worker.id, lanes, more=more)
    worker.connection.execute("rollback")
    assert effects(queue) == 0
    assert heir.finish(*taken) == {chunk.lane for chunk in taken}


def test_a_handler_that_was_stopped_keeps_nobody_from_taking_its_key_over(
    another: Another, queue: Queue, worker: Worker
) -> None:
    queue.send("k")
    [chunk] = worker.take().chunks
    queue.connection.execute("create table effect (n integer)")
    begin_handling(worker.connection)
    worker.connection.execute("insert into effect values (1)")
    queue.connection.execute("set lock_timeout = '2s'")
    worker.die()
    successor = Worker(another(), queue)
    [fresh] = successor.take().chunks
    assert successor.finish(fresh) == {fresh.lane}
    with pytest.raises(LeaseLost):
        end_handling(worker.connection, queue.name, worker.id, [done(chunk)])
    worker.connection.execute("rollback")
    assert effects(queue) == 0

"""Dead letters against live events of their key."""

from collections.abc import Callable

import pytest

from pgbus.model.delivery import Chunk
from pgbus.store import letters
from pgbus.store.query import run
from pgbus.store.settle import LaneSettlement
from tests.store.queue import Connection, Queue
from tests.store.worker import Worker, ids

Another = Callable[[], Connection]


@pytest.fixture
def worker(another: Another, queue: Queue) -> Worker:
    return Worker(another(), queue)


@pytest.fixture
def parking(connection: Connection) -> Queue:
    return Queue(connection, "parking", park=True)


def bury(worker: Worker, chunk: Chunk, *msg_ids: int) -> None:
    """Make dead letters of some events of a chunk, and let go of its lane."""
    dead = [(msg_id, '{"tried": 1}') for msg_id in msg_ids]
    settlement = LaneSettlement(chunk.lane, chunk.token, release=True, dead=dead, troubled=True)
    assert worker.settle(settlement) == {chunk.lane}


def test_what_is_redriven_comes_before_its_successors(queue: Queue, worker: Worker) -> None:
    queue.send("k", "k", "k", "k", "other")
    for chunk in worker.take().chunks:
        if chunk.lane == queue.lane("k"):
            bury(worker, chunk, 1, 3)
        else:
            worker.finish(chunk)
    assert ids(worker.take(worker.wish(quantity=1))) == [[2]]
    # A holder of the key goes on with what it has; then the old order is restored.
    assert run(queue.connection, letters.redrive(queue.name, None, None)) == 2
    assert worker.take().chunks == []
    holding = LaneSettlement(queue.lane("k"), worker.token - 1, release=True, done=[2])
    assert worker.settle(holding) == {queue.lane("k")}
    assert ids(worker.take()) == [[1, 3, 4]]
    assert queue.letters() == []


def test_redriven_letters_are_as_they_were_and_start_anew(queue: Queue, worker: Worker) -> None:
    queue.send("k", None)
    before = queue.connection.execute("select msg_id, message, headers from pgmq.q_billing")
    original = before.fetchall()
    for chunk in worker.take().chunks:
        again = (chunk.messages[0].msg_id, 0.0, "failure")
        worker.settle(LaneSettlement(chunk.lane, chunk.token, release=True, again=again))
    for chunk in worker.take().chunks:
        bury(worker, chunk, chunk.messages[0].msg_id)
    assert queue.attempts() == {}
    page = run(queue.connection, letters.page(queue.name, 0))
    assert [letter.attempts for letter in page] == [2, 2]
    run(queue.connection, letters.redrive(queue.name, None, None))
    after = queue.connection.execute("select msg_id, message, headers from pgmq.q_billing")
    assert sorted(after.fetchall()) == sorted(original)
    assert {m.attempt for chunk in worker.take().chunks for m in chunk.messages} == {1}


def test_two_redrives_at_once_put_each_letter_back_once(
    another: Another, connection: Connection, queue: Queue, worker: Worker
) -> None:
    queue.send("k", "k")
    [chunk] = worker.take().chunks
    bury(worker, chunk, 1, 2)
    other = another()
    with other.transaction():
        assert run(other, letters.redrive(queue.name, None, 1)) == 1
        assert run(connection, letters.redrive(queue.name, None, None)) == 1
    assert queue.ids() == [1, 2]
    assert queue.letters() == []


def test_somebody_elses_message_among_the_letters_is_left_alone(queue: Queue) -> None:
    queue.connection.execute("""select pgmq.send('billing_dlq', '1'::jsonb, '{"a": 1}'::jsonb)""")
    queue.connection.execute("select pgmq.send('billing_dlq', '2'::jsonb)")
    assert run(queue.connection, letters.redrive(queue.name, None, None)) == 0
    assert [one.body for one in run(queue.connection, letters.page(queue.name, 0))] == [1, 2]
    assert run(queue.connection, letters.drop(queue.name, None)) == 2


def test_a_key_is_parked_exactly_as_long_as_it_has_a_letter(
    another: Another, parking: Queue
) -> None:
    parking.send("k", "k", "k", "other")
    worker = Worker(another(), parking)
    [chunk] = [one for one in worker.take().chunks if one.lane == parking.lane("k")]
    bury(worker, chunk, 1)
    parking.send("other")
    assert worker.take().chunks == []  # `other` is held, `k` is parked
    run(parking.connection, letters.redrive("parking", None, None))
    [again] = worker.take().chunks
    assert [message.msg_id for message in again.messages] == [1, 2, 3]
    bury(worker, again, 1, 2)
    assert worker.take().chunks == []
    parking.connection.execute("select pgmq.pop('parking_dlq')")  # one of two
    assert worker.take().chunks == []
    run(parking.connection, letters.drop("parking", None))
    assert ids(worker.take()) == [[3]]


def test_an_unkeyed_letter_parks_nothing(another: Another, parking: Queue) -> None:
    parking.send(None, None)
    worker = Worker(another(), parking)
    for chunk in worker.take().chunks:
        if chunk.messages[0].msg_id == 1:
            bury(worker, chunk, 1)
        else:
            worker.finish(chunk)
    parking.send(None)
    assert ids(worker.take()) == [[3]]
    run(parking.connection, letters.redrive("parking", None, None))
    assert ids(worker.take()) == [[1]]

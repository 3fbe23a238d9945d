"""Where a take looks for free lanes, and where the next one goes on."""

from collections.abc import Callable

import pytest

from pgbus.store.settle import LaneSettlement
from tests.store.queue import Connection, Queue
from tests.store.worker import Took, Worker, ids

Another = Callable[[], Connection]


def test_a_delayed_or_leased_head_keeps_back_its_own_key_alone(
    another: Another, queue: Queue
) -> None:
    queue.send("held", "free")
    holder, worker = Worker(another(), queue), Worker(another(), queue)
    lanes = {chunk.lane: chunk for chunk in holder.take().chunks}
    holder.finish(lanes[queue.lane("free")])
    queue.send("delayed", delay=3600)
    queue.send("delayed", "held", "free", "other")
    assert ids(worker.take()) == [[6], [7]]


def test_the_walk_goes_on_behind_a_long_run_of_leased_lanes(another: Another, queue: Queue) -> None:
    queue.fill(6_000, keys=6_000)
    holder, worker = Worker(another(), queue), Worker(another(), queue)
    held = holder.take(holder.wish(lanes=5_500, quantity=1))
    assert len(held.chunks) == 5_000
    first = worker.take(worker.wish(lanes=10))
    assert first.chunks == []
    assert first.resume is not None
    second = worker.take(worker.wish(start=first.resume, lanes=2_000))
    assert len(second.chunks) == 1_000
    assert second.resume is None


def by_arrival(worker: Worker, *, start: int = 0, visits: int = 100, lanes: int = 100) -> Took:
    return worker.take(worker.wish(by_arrival=True, start=start, visits=visits, lanes=lanes))


def test_by_arrival_the_oldest_lanes_are_taken_and_the_next_take_goes_on_behind_them(
    queue: Queue,
) -> None:
    queue.send("a", "b", "a", "c", "d", None, "e")
    worker = Worker(queue.connection, queue)
    first = by_arrival(worker, lanes=2)
    assert ids(first) == [[1, 3], [2]]
    assert first.resume == 4
    second = by_arrival(worker, start=4, lanes=3)
    assert ids(second) == [[4], [5], [6]]
    assert second.resume == 7
    third = by_arrival(worker, start=7, lanes=3)
    assert ids(third) == [[7]]
    assert third.resume is None


def test_by_arrival_no_more_events_are_looked_at_than_asked_for(queue: Queue) -> None:
    queue.send("a", "a", "a", "b", "c")
    worker = Worker(queue.connection, queue)
    first = by_arrival(worker, visits=3)
    assert ids(first) == [[1, 2, 3]]
    assert first.resume == 4
    assert ids(by_arrival(worker, start=4, visits=3)) == [[4], [5]]


def test_by_arrival_a_lane_is_taken_from_its_first_event_on_wherever_that_is(
    another: Another, queue: Queue
) -> None:
    queue.send("a", "b", "c", "a", "b", "c")
    queue.connection.execute("update pgmq.q_billing set vt = 'infinity' where msg_id = 2")
    holder = Worker(another(), queue)
    [held] = holder.take(holder.wish(start=queue.lane("c"), lanes=1)).chunks
    worker = Worker(another(), queue)
    taken = by_arrival(worker, start=4)
    assert ids(taken) == [[1, 4]]
    assert taken.resume is None
    holder.finish(held)
    assert by_arrival(worker, start=4).chunks == []


def test_by_arrival_what_is_not_free_is_passed_over(
    another: Another, connection: Connection
) -> None:
    queue = Queue(connection, park=True)
    queue.send("dead", "dead", "late", "late", "held", "held", "free", "more", "last")
    holder, worker = Worker(another(), queue), Worker(another(), queue)
    taken = by_arrival(holder, lanes=3)
    dead, late, _ = sorted(taken.chunks, key=lambda chunk: chunk.messages[0].msg_id)
    holder.settle(LaneSettlement(dead.lane, dead.token, release=True, dead=[(1, '{"tried": 1}')]))
    again = (3, 3600.0, "failure")
    holder.settle(LaneSettlement(late.lane, late.token, release=True, again=again))
    taken = by_arrival(worker, lanes=2)
    assert ids(taken) == [[7], [8]]
    assert taken.resume == 9


@pytest.mark.parametrize("start", [-(2**63), 2**63 - 1])
def test_by_arrival_any_start_will_do(queue: Queue, start: int) -> None:
    queue.send("a")
    taken = by_arrival(Worker(queue.connection, queue), start=start)
    assert (len(taken.chunks), taken.resume) == (start < 0, None)


def test_by_arrival_an_unordered_subscription_takes_one_event_after_the_other(
    connection: Connection,
) -> None:
    queue = Queue(connection, ordered=False)
    queue.send("a", "a", None, "a")
    worker = Worker(connection, queue)
    first = by_arrival(worker, lanes=3)
    assert ids(first) == [[1], [2], [3]]
    assert first.resume == 4
    assert ids(by_arrival(worker, start=4)) == [[4]]

"""Leases in the dangerous orders, each stepped by hand over connections of its own."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import msgspec
import psycopg
import pytest

from pgbus.model.delivery import FIRST_LANE, LAST_LANE, Chunk
from pgbus.store import letters, workers
from pgbus.store.query import run
from pgbus.store.settle import LaneSettlement
from tests.store.queue import Connection, Queue, wait_until_blocked
from tests.store.worker import Took, Worker, done, ids

Another = Callable[[], Connection]

in_every_way = pytest.mark.parametrize(
    ("transactional", "release"),
    [(False, True), (False, False), (True, True), (True, False)],
    ids=["settle", "settle, to go on", "acknowledge", "acknowledge, to go on"],
)
"""An acknowledgement deletes the lease or, where its worker goes on, locks it; the transaction of a
handler does so by a function of its own."""


def acknowledge(worker: Worker, chunk: Chunk, *, transactional: bool, release: bool) -> bool:
    """Settle the one event of a chunk; return whether its lane was still held."""
    lane = done(chunk, release=release)
    return worker.end_handling(lane) if transactional else worker.settle(lane) == {chunk.lane}


def give_up(chunk: Chunk) -> LaneSettlement:
    """The first event of a chunk becomes a dead letter."""
    dead = [(chunk.messages[0].msg_id, '{"tried": 1}')]
    return LaneSettlement(chunk.lane, chunk.token, release=True, dead=dead)


def try_again(chunk: Chunk, delay: float = 60.0) -> LaneSettlement:
    """The first event of a chunk failed."""
    again = (chunk.messages[0].msg_id, delay, "failure")
    return LaneSettlement(chunk.lane, chunk.token, release=True, again=again)


@pytest.mark.parametrize("end", ["done", "again", "parked", "death"])
@pytest.mark.parametrize("by_arrival", [False, True])
def test_what_happens_to_a_lane_between_the_walk_and_the_read_of_a_take_counts(
    by_arrival: bool, end: str, another: Another, connection: Connection, aside: ThreadPoolExecutor
) -> None:
    queue = Queue(connection, park=True)
    front, back = sorted(["a", "b"], key=queue.lane)
    queue.send(front, back, back)
    blocker, quick, slow = (Worker(another(), queue) for _ in range(3))

    with blocker.connection.transaction():
        # The walk of `slow` sees both lanes free; it then waits for the lease of the first.
        blocker.take(blocker.wish(lanes=1))
        taking = aside.submit(slow.take, slow.wish(by_arrival=by_arrival))
        wait_until_blocked(connection, slow.connection)
        [chunk] = quick.take(quick.wish(start=queue.lane(back))).chunks
        assert [message.msg_id for message in chunk.messages] == [2, 3]
        if end == "done":
            quick.finish(chunk)
        elif end == "again":
            quick.settle(try_again(chunk))
        elif end == "parked":
            quick.settle(give_up(chunk))
        else:
            quick.die()

    taken = taking.result()
    # The lane was won, but none of its events may be had now: the lease has to go back.
    assert taken.chunks == []
    assert taken.empty == [queue.lane(back)]
    slow.settle(LaneSettlement(queue.lane(back), slow.token, release=True))
    assert queue.lane(back) not in queue.leases()
    assert queue.ids() == {"done": [1], "parked": [1, 3]}.get(end, [1, 2, 3])


def test_a_lane_that_was_given_back_empty_is_free_for_its_next_event(
    another: Another, connection: Connection, queue: Queue, aside: ThreadPoolExecutor
) -> None:
    front, back = sorted(["a", "b"], key=queue.lane)
    queue.send(front, back)
    blocker, quick, slow = (Worker(another(), queue) for _ in range(3))
    with blocker.connection.transaction():
        blocker.take(blocker.wish(lanes=1))
        taking = aside.submit(slow.take)
        wait_until_blocked(connection, slow.connection)
        quick.finish(*quick.take(quick.wish(start=queue.lane(back))).chunks)
    [empty] = taking.result().empty
    [late] = queue.send(back)
    assert quick.take().chunks == []  # the lease of `slow` holds, though there was nothing
    slow.settle(LaneSettlement(empty, slow.token, release=True))
    assert ids(quick.take()) == [[late]]


def test_a_lower_id_that_commits_late_waits_for_the_holder_of_its_key(
    another: Another, connection: Connection, queue: Queue
) -> None:
    late = another()
    first, second = Worker(another(), queue), Worker(another(), queue)
    with late.transaction():
        [lower] = queue.send("k", connection=late)
        [higher] = queue.send("k")
        taken = first.take()
        assert ids(taken) == [[higher]]
    assert lower < higher
    assert second.take().chunks == []
    first.finish(*taken.chunks)
    assert ids(second.take()) == [[lower]]
    assert first.take().chunks == []


def test_an_acknowledgement_after_a_take_over_changes_nothing(
    another: Another, queue: Queue
) -> None:
    queue.send("k", "k")
    slow, next_one = Worker(another(), queue), Worker(another(), queue)
    [stale] = slow.take().chunks
    slow.die()
    [fresh] = next_one.take(next_one.wish(quantity=1)).chunks
    before = (queue.ids(), queue.leases(), queue.attempts(), queue.letters())
    assert slow.finish(stale) == set()
    assert slow.settle(give_up(stale)) == set()
    assert slow.settle(try_again(stale)) == set()
    assert slow.settle(done(stale, release=False)) == set()
    for release in (True, False):
        first = msgspec.structs.replace(stale, messages=stale.messages[:1])
        assert not acknowledge(slow, first, transactional=True, release=release)
    assert (queue.ids(), queue.leases(), queue.attempts(), queue.letters()) == before
    assert next_one.finish(fresh) == {fresh.lane}
    assert queue.ids() == [2]


def test_an_old_token_of_the_same_worker_is_fenced_as_well(another: Another, queue: Queue) -> None:
    queue.send("k", "k")
    worker = Worker(another(), queue)
    [old] = worker.take(worker.wish(quantity=1)).chunks
    assert run(worker.connection, workers.forget(worker.id, [old.token])) == 1
    [new] = worker.take(worker.wish(quantity=1)).chunks
    assert worker.finish(old) == set()
    assert queue.ids() == [1, 2]
    assert worker.finish(new) == {new.lane}
    assert queue.ids() == [2]


@in_every_way
def test_a_take_over_that_commits_while_the_acknowledgement_waits_wins(
    transactional: bool,
    release: bool,
    another: Another,
    connection: Connection,
    queue: Queue,
    aside: ThreadPoolExecutor,
) -> None:
    queue.send("k")
    worker = Worker(another(), queue)
    [chunk] = worker.take().chunks
    worker.expire()
    reaper = another()
    with reaper.transaction():
        [dead] = run(reaper, workers.reap())
        assert dead.lanes == 1
        settling = aside.submit(
            acknowledge, worker, chunk, transactional=transactional, release=release
        )
        wait_until_blocked(connection, worker.connection)
    assert not settling.result()
    assert queue.ids() == [1]


@in_every_way
def test_an_acknowledgement_that_commits_after_the_take_over_wins(
    transactional: bool, release: bool, another: Another, connection: Connection, queue: Queue
) -> None:
    queue.send("k", "l")
    worker = Worker(another(), queue)
    acknowledged, held = worker.take().chunks
    worker.expire()
    with worker.connection.transaction():
        worker.settle_within(done(acknowledged, release=release), transactional=transactional)
        assert run(connection, workers.reap()) == [("test", "here", 1, 1)]
        assert list(queue.leases()) == [acknowledged.lane]
    assert run(connection, workers.reap()) == []
    [left] = [message.msg_id for message in held.messages]
    assert queue.ids() == [left]
    assert queue.leases() == {}
    assert list(queue.attempts()) == [left]


@in_every_way
def test_an_acknowledgement_that_rolls_back_after_the_take_over_is_buried_next(
    transactional: bool, release: bool, another: Another, connection: Connection, queue: Queue
) -> None:
    """As of a stopped process, whose session is ended."""
    queue.send("k")
    worker = Worker(another(), queue)
    [chunk] = worker.take().chunks
    worker.expire()
    with worker.connection.transaction(force_rollback=True):
        worker.settle_within(done(chunk, release=release), transactional=transactional)
        assert run(connection, workers.reap()) == [("test", "here", 1, 0)]
    assert queue.attempts() == {}
    run(connection, workers.reap())
    assert (queue.leases(), queue.attempts()) == ({}, {1: (0, 0, 1, 0)})


def test_a_heartbeat_executed_in_time_but_committed_late_keeps_every_lease(
    another: Another, connection: Connection, queue: Queue
) -> None:
    queue.send("k")
    worker = Worker(another(), queue)
    [chunk] = worker.take().chunks
    worker.expire()
    with worker.connection.transaction():
        worker.connection.execute("update pgbus.worker set lease = '1h' where id = %s", [worker.id])
        assert worker.heartbeat()
        # Everybody else still sees the old time, long past.
        assert run(connection, workers.reap()) == []
    assert run(connection, workers.reap()) == []
    assert queue.leases() == {chunk.lane: (worker.id, chunk.token)}
    assert worker.finish(chunk) == {chunk.lane}


def test_a_heartbeat_after_death_says_so_and_brings_nothing_back(
    another: Another, queue: Queue
) -> None:
    queue.send("k")
    worker = Worker(another(), queue)
    [chunk] = worker.take().chunks
    worker.die()
    assert not worker.heartbeat()
    assert worker.finish(chunk) == set()


def test_a_burial_waits_for_nobody(another: Another, connection: Connection, queue: Queue) -> None:
    """So it cannot deadlock with an acknowledgement, nor wait for a process that was stopped."""
    lower, upper = sorted(["a", "b"], key=queue.lane)
    queue.send(lower, upper)
    worker, gate = Worker(another(), queue), another()
    chunks = worker.take().chunks
    worker.expire()
    with gate.transaction():
        gate.execute("select from pgbus.lease where lane = %s for update", (queue.lane(lower),))
        assert run(connection, workers.reap()) == [("test", "here", 1, 1)]
        assert list(queue.leases()) == [queue.lane(lower)]
    assert worker.finish(*chunks) == {queue.lane(lower)}
    assert (queue.ids(), list(queue.attempts()), queue.leases()) == ([2], [2], {})


def test_two_reapers_at_once_bury_a_worker_once(
    another: Another, connection: Connection, queue: Queue
) -> None:
    queue.send("k")
    worker, other = Worker(another(), queue), another()
    worker.take()
    worker.expire()
    with other.transaction():
        assert len(run(other, workers.reap())) == 1
        assert run(connection, workers.reap()) == []
    assert run(connection, workers.reap()) == []
    assert queue.attempts() == {1: (0, 0, 1, 0)}


def test_takers_from_everywhere_at_once_win_disjoint_lanes(
    another: Another, queue: Queue, aside: ThreadPoolExecutor
) -> None:
    queue.fill(600, keys=600)
    takers = [Worker(another(), queue) for _ in range(6)]
    together = threading.Barrier(len(takers), timeout=10)

    def take_all(number: int, worker: Worker) -> list[int]:
        won: list[int] = []
        by_arrival = number % 2 == 1
        start = 100 * number if by_arrival else FIRST_LANE + number * (2**64 // len(takers))
        for _ in range(50):
            together.wait()
            lanes = 3 + 7 * number
            taken = worker.take(worker.wish(by_arrival=by_arrival, start=start, lanes=lanes))
            won += [chunk.lane for chunk in taken.chunks]
            start = FIRST_LANE if taken.resume is None else taken.resume
        return won

    futures = [aside.submit(take_all, n, worker) for n, worker in enumerate(takers)]
    won = [lane for future in futures for lane in future.result()]
    assert len(won) == len(set(won)) == 600
    assert all(FIRST_LANE <= lane <= LAST_LANE for lane in won)


@pytest.mark.parametrize("by_arrival", [False, True])
@pytest.mark.parametrize("won", [2, 3])
def test_who_loses_most_of_what_it_saw_is_told_so(
    another: Another,
    connection: Connection,
    queue: Queue,
    aside: ThreadPoolExecutor,
    won: int,
    *,
    by_arrival: bool,
) -> None:
    queue.send("a", "b", "c", "d", "e")
    first, second = Worker(another(), queue), Worker(another(), queue)
    with first.connection.transaction():
        taken = first.take(first.wish(by_arrival=by_arrival, lanes=5 - won))
        assert not taken.contested
        taking = aside.submit(second.take, second.wish(by_arrival=by_arrival))
        wait_until_blocked(connection, second.connection)
    lost = taking.result()
    assert len(lost.chunks) == won
    assert lost.contested == (won < 2.5)


def test_two_takers_from_opposite_ends_neither_share_a_lane_nor_wait_for_each_other(
    another: Another, connection: Connection, queue: Queue, aside: ThreadPoolExecutor
) -> None:
    low, middle, high = sorted(["a", "b", "c"], key=queue.lane)
    queue.send(low, middle, high)
    blocker, up, down = (Worker(another(), queue) for _ in range(3))
    with blocker.connection.transaction():
        [held] = blocker.take(blocker.wish(start=queue.lane(middle), lanes=1)).chunks
        # One from below has the lowest lane, and waits in front of the middle; one from above has
        # the highest, begins at the bottom again, and waits behind the first.
        climbing = aside.submit(up.take)
        wait_until_blocked(connection, up.connection)
        [top] = down.take(down.wish(start=queue.lane(high))).chunks
        falling = aside.submit(down.take)
        wait_until_blocked(connection, down.connection)
    [bottom] = climbing.result().chunks
    assert falling.result() == Took([], [], None, contested=True)
    won = {one.lane: (one, worker) for one, worker in ((bottom, up), (held, blocker), (top, down))}
    assert list(won) == [queue.lane(low), queue.lane(middle), queue.lane(high)]
    assert all(worker.finish(chunk) == {lane} for lane, (chunk, worker) in won.items())


def test_a_take_executed_only_after_it_was_given_back_is_given_back_again(
    another: Another, connection: Connection, queue: Queue, aside: ThreadPoolExecutor
) -> None:
    """Its connection broke, but the backend stalled and carries it out later."""
    front, back = sorted(["a", "b"], key=queue.lane)
    queue.send(front, back)
    blocker, worker = Worker(another(), queue), Worker(another(), queue)
    lost = worker.wish()
    with blocker.connection.transaction():
        [held] = blocker.take(blocker.wish(lanes=1)).chunks
        taking = aside.submit(worker.take, lost)
        wait_until_blocked(connection, worker.connection)
        assert run(connection, workers.forget(worker.id, [lost.token])) == 0
    taking.result()
    assert queue.leases()[queue.lane(back)] == (worker.id, lost.token)
    assert run(connection, workers.forget(worker.id, [lost.token])) == 1
    assert queue.leases() == {held.lane: (blocker.id, held.token)}
    assert queue.attempts() == {}
    assert ids(worker.take()) == [[2]]


def test_a_redrive_amid_a_take_comes_before_its_successors(
    another: Another, connection: Connection, queue: Queue, aside: ThreadPoolExecutor
) -> None:
    front, back = sorted(["a", "b"], key=queue.lane)
    queue.send(back, back, front)
    blocker, quick, slow = (Worker(another(), queue) for _ in range(3))
    [chunk] = quick.take(quick.wish(start=queue.lane(back))).chunks
    quick.settle(give_up(chunk))
    with blocker.connection.transaction():
        # The walk of `slow` sees the live event at the head of its key.
        blocker.take(blocker.wish(lanes=1))
        taking = aside.submit(slow.take)
        wait_until_blocked(connection, slow.connection)
        assert run(connection, letters.redrive(queue.name, None, None)) == 1
    assert ids(taking.result()) == [[1, 2]]


def test_a_redrive_that_is_not_committed_waits_for_the_holder_of_its_key(
    another: Another, queue: Queue
) -> None:
    queue.send("k", "k")
    first, second, operator = Worker(another(), queue), Worker(another(), queue), another()
    first.settle(give_up(*first.take().chunks))
    with operator.transaction():
        assert run(operator, letters.redrive(queue.name, None, None)) == 1
        taken = first.take()
        assert ids(taken) == [[2]]
    assert second.take().chunks == []
    first.finish(*taken.chunks)
    assert ids(second.take()) == [[1]]


def test_a_parked_key_waits_until_its_redrive_is_committed(
    another: Another, connection: Connection
) -> None:
    queue = Queue(connection, park=True)
    queue.send("k", "k")
    worker, operator = Worker(another(), queue), another()
    worker.settle(give_up(*worker.take().chunks))
    with operator.transaction(force_rollback=True):
        assert run(operator, letters.redrive(queue.name, None, None)) == 1
        assert worker.take().chunks == []
    assert worker.take().chunks == []
    with operator.transaction():
        assert run(operator, letters.redrive(queue.name, None, None)) == 1
        assert worker.take().chunks == []
    assert ids(worker.take()) == [[1, 2]]


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_a_take_is_refused_outside_read_committed(
    level: str, another: Another, queue: Queue
) -> None:
    queue.send("k")
    worker = Worker(another(), queue)
    wish = worker.wish()
    worker.connection.execute(f"begin isolation level {level}")
    with pytest.raises(psycopg.errors.InvalidTransactionState, match="READ COMMITTED"):
        worker.take(wish)
    worker.connection.rollback()
    assert queue.leases() == {}
    assert len(worker.take(wish).chunks) == 1

"""A worker's death: whose keys become free, who is suspected, who is to blame."""

from collections.abc import Callable

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgbus.model.delivery import Chunk
from pgbus.store import topology, workers
from pgbus.store.query import run
from pgbus.store.settle import LaneSettlement
from tests.store.queue import Connection, Queue
from tests.store.worker import Worker

Another = Callable[[], Connection]


def numbers(chunk: Chunk) -> list[int]:
    return [message.msg_id for message in chunk.messages]


def test_after_a_death_suspects_come_alone_and_one_a_take(another: Another, queue: Queue) -> None:
    queue.send("a", "a", "a", "b", "b")
    victim, heir = Worker(another(), queue), Worker(another(), queue)
    victim.take(victim.wish(quantity=2))
    victim.die()
    assert queue.leases() == {}
    assert queue.attempts() == {1: (0, 0, 1, 0), 2: (0, 0, 1, 0), 4: (0, 0, 1, 0), 5: (0, 0, 1, 0)}
    queue.send("c", "c")

    first = heir.take()
    [suspect] = [chunk for chunk in first.chunks if chunk.suspect]
    assert len(suspect.messages) == 1
    assert [numbers(chunk) for chunk in first.chunks if not chunk.suspect] == [[6, 7]]
    assert heir.take(heir.wish(suspects=False)).chunks == []
    [other] = heir.take().chunks
    assert other.suspect
    assert len(other.messages) == 1
    heir.finish(*first.chunks, other)

    one, two = heir.take().chunks, heir.take().chunks
    assert sorted(map(numbers, one + two)) == [[2], [5]]
    heir.finish(*one, *two)
    # Behind the suspects the key goes on as ever.
    [rest] = heir.take().chunks
    assert (numbers(rest), rest.suspect) == ([3], False)
    heir.finish(rest)
    assert queue.ids() == []


def test_a_suspect_that_was_handled_is_forgotten(another: Another, queue: Queue) -> None:
    queue.send("a")
    victim, heir = Worker(another(), queue), Worker(another(), queue)
    victim.take()
    victim.die()
    [chunk] = heir.take().chunks
    [message] = chunk.messages
    assert (message.attempt, message.deaths, message.troubled) == (1, 0, True)
    heir.finish(chunk)
    assert queue.attempts() == {}


def test_a_second_death_blames_the_one_that_was_alone(another: Another, queue: Queue) -> None:
    queue.send("a", "b")
    victim, second, heir = (Worker(another(), queue) for _ in range(3))
    victim.take()
    victim.die()
    [alone] = second.take().chunks
    [guilty] = numbers(alone)
    second.die()
    innocent = 3 - guilty
    # It is to blame for the death that it was suspected of, too.
    assert queue.attempts() == {guilty: (0, 2, 0, 0), innocent: (0, 0, 1, 0)}
    by_id = {}
    for chunk in heir.take().chunks + heir.take().chunks:
        by_id[numbers(chunk)[0]] = chunk.messages[0]
    assert (by_id[guilty].deaths, by_id[guilty].attempt) == (2, 3)
    assert (by_id[innocent].deaths, by_id[innocent].attempt) == (0, 1)


def test_the_events_of_a_blamed_key_stay_in_order(another: Another, queue: Queue) -> None:
    queue.send("a", "a", "a")
    for _ in range(3):
        victim = Worker(another(), queue)
        victim.take()
        victim.die()
    worker = Worker(another(), queue)
    seen = []
    while chunks := worker.take().chunks:
        seen += [number for chunk in chunks for number in numbers(chunk)]
        worker.finish(*chunks)
    assert seen == [1, 2, 3]


def test_a_worker_that_signs_off_leaves_no_suspicion(another: Another, queue: Queue) -> None:
    queue.send("a", "b")
    worker = Worker(another(), queue)
    worker.take()
    run(worker.connection, workers.stop(worker.id))
    assert queue.leases() == {}
    assert queue.attempts() == {}
    assert not worker.heartbeat()
    assert len(Worker(another(), queue).take().chunks) == 2


@pytest.mark.parametrize("trace", ["never registered", "declared dead before"])
def test_leases_of_a_worker_that_is_gone_are_freed(
    trace: str, another: Another, connection: Connection, queue: Queue
) -> None:
    """A take may commit just after its worker was declared dead, or had left."""
    queue.send("a", "b")
    ghost = Worker(another(), queue)
    if trace == "never registered":
        run(connection, workers.stop(ghost.id))
    else:
        ghost.die()
    assert len(ghost.take().chunks) == 2
    heir = Worker(another(), queue)
    assert heir.take().chunks == []
    run(connection, workers.reap())
    assert queue.leases() == {}
    assert len(heir.take().chunks) == 1  # suspects


def test_reaping_tells_who_fell_silent_and_spares_the_living(
    another: Another, connection: Connection, queue: Queue
) -> None:
    queue.send("a", "b", "c")
    living, victim = Worker(another(), queue), Worker(another(), queue)
    [mine] = living.take(living.wish(lanes=1)).chunks
    assert len(victim.take().chunks) == 2
    victim.expire()
    assert run(connection, workers.reap()) == [("test", "here", 1, 2)]
    assert run(connection, workers.reap()) == []
    assert queue.leases() == {mine.lane: (living.id, mine.token)}


def test_an_outage_of_the_server_kills_nobody(
    another: Another, connection: Connection, queue: Queue
) -> None:
    """Expiry counts from the server's start, if that is later."""
    queue.send("a")
    worker = Worker(another(), queue)
    worker.take()
    connection.execute(
        "update pgbus.worker set expires_at = pg_postmaster_start_time() - interval '1 day', "
        "lease = clock_timestamp() - pg_postmaster_start_time() + interval '1h'"
    )
    assert run(connection, workers.reap()) == []
    connection.execute("update pgbus.worker set lease = '0'")
    assert len(run(connection, workers.reap())) == 1


def test_the_backends_of_a_dead_worker_are_terminated(
    another: Another, connect: Callable[[str], Connection], bus_dsn: str, queue: Queue
) -> None:
    victim, other = Worker(another(), queue), Worker(another(), queue)
    stuck = connect(make_conninfo(bus_dsn, application_name=f"pgbus/{victim.id:x}"))
    well = connect(make_conninfo(bus_dsn, application_name=f"pgbus/{other.id:x}"))
    stuck.execute("begin")
    victim.die()
    with pytest.raises(psycopg.OperationalError):
        stuck.execute("select 1")
    well.execute("select 1")


def test_a_death_is_counted_in_every_subscription_of_the_worker(
    another: Another, connection: Connection, queue: Queue
) -> None:
    other = Queue(connection, "shipping", ordered=False)
    queue.send("a", "a")
    other.send("a", "a")
    victim = Worker(another(), queue)
    victim.take()
    victim.queue = other
    victim.take(victim.wish(quantity=1))
    victim.die()
    assert set(queue.attempts()) == set(other.attempts()) == {1, 2}
    assert queue.leases() == other.leases() == {}


def test_releases_at_a_shutdown_are_counted_apart(another: Another, queue: Queue) -> None:
    queue.send("a", "b")
    worker = Worker(another(), queue)
    for chunk in worker.take().chunks:
        outcome = "release" if chunk.lane == queue.lane("a") else "none"
        again = (chunk.messages[0].msg_id, 0.0, outcome)
        worker.settle(LaneSettlement(chunk.lane, chunk.token, release=True, again=again))
    assert queue.attempts() == {1: (0, 0, 0, 1)}
    attempts = [message.attempt for chunk in worker.take().chunks for message in chunk.messages]
    assert attempts == [1, 1]
    assert run(queue.connection, topology.idle([queue.number])) is False


@pytest.mark.parametrize("how", ["stopped", "dead", "doubted"])
def test_who_sleeps_is_told_of_lanes_that_are_let_go_unsettled(queue: Queue, how: str) -> None:
    queue.send("a")
    worker = Worker(queue.connection, queue)
    assert worker.take().chunks
    queue.connection.execute("listen pgbus_billing")
    match how:
        case "stopped":
            worker.leave()
        case "dead":
            worker.die()
        case "doubted":
            run(queue.connection, workers.forget(worker.id, [worker.token]))
    [notice] = queue.connection.notifies(timeout=10, stop_after=1)
    assert notice.channel == "pgbus_billing"

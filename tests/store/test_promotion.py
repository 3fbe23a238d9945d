"""Delayed events enter their queues in order, whoever moves them."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from pgbus.store import topology
from pgbus.store.query import run
from tests.store.queue import Connection, Queue, wait_until_blocked

Another = Callable[[], Connection]


def schedule(connection: Connection, *due: str, queues: tuple[str, ...] = ("billing",)) -> None:
    """Events of one key that fell due so long ago, in the order in which they were published."""
    for number, ago in enumerate(due, 1):
        connection.execute(
            "insert into pgbus.scheduled (due_at, queues, body, headers) values "
            "(clock_timestamp() - %s::interval, %s, %s::text::jsonb, "
            '\'{"x-pgmq-group": "k"}\')',
            (ago, list(queues), str(number)),
        )


def promote(connection: Connection, limit: int = 1000) -> int:
    row = connection.execute("select pgbus.promote(%s)", (limit,)).fetchone()
    assert row is not None
    return int(row[0])


def bodies(queue: Queue) -> list[int]:
    rows = queue.connection.execute("select message from pgmq.q_billing order by msg_id")
    return [body for (body,) in rows]


def test_what_falls_due_first_comes_first(queue: Queue) -> None:
    schedule(queue.connection, "1s", "3s", "2s")
    assert promote(queue.connection, limit=2) == 2
    assert bodies(queue) == [2, 3]
    assert promote(queue.connection) == 1
    assert bodies(queue) == [2, 3, 1]


def test_one_process_moves_them_at_a_time(queue: Queue, another: Another) -> None:
    """Two would overtake each other, or move an event twice."""
    schedule(queue.connection, "3s", "2s", "1s")
    first, second = another(), another()
    second.execute("set lock_timeout = '1s'")
    with first.transaction():
        assert promote(first, limit=1) == 1
        assert promote(second) == 0
    assert promote(second) == 2
    assert bodies(queue) == [1, 2, 3]


def test_what_is_moved_by_a_transaction_that_fails_waits_on(queue: Queue, another: Another) -> None:
    schedule(queue.connection, "2s", "1s")
    first = another()
    first.execute("begin")
    assert promote(first) == 2
    first.execute("rollback")
    assert bodies(queue) == []
    assert promote(queue.connection) == 2
    assert bodies(queue) == [1, 2]


def test_a_queue_that_is_renamed_while_its_event_is_moved_gets_it(
    connection: Connection, another: Another, aside: ThreadPoolExecutor
) -> None:
    first, last = Queue(connection, "aaa"), Queue(connection, "zzz")
    schedule(connection, "1s", queues=(first.name, last.name))
    gate, mover, renamer = another(), another(), another()
    with gate.transaction():
        # The names of both queues have been read when this waits for the first.
        gate.execute("lock table pgmq.q_aaa in access exclusive mode")
        moving = aside.submit(promote, mover)
        wait_until_blocked(connection, mover)
        renaming = aside.submit(run, renamer, topology.rename(last.name, "renamed"))
        wait_until_blocked(connection, renamer)
    assert moving.result() == 1
    renaming.result()
    assert (first.ids(), Queue(connection, "renamed").ids()) == ([1], [1])


def test_what_falls_due_while_its_queue_is_renamed_is_moved_later(
    connection: Connection, another: Another
) -> None:
    """Whoever would move it does not wait meanwhile."""
    first, last = Queue(connection, "aaa"), Queue(connection, "zzz")
    schedule(connection, "1s", queues=(first.name, last.name))
    renamer = another()
    with renamer.transaction():
        run(renamer, topology.rename(last.name, "renamed"))
        assert promote(connection) == 0
    assert promote(connection) == 1
    assert (first.ids(), Queue(connection, "renamed").ids()) == ([1], [1])


def test_what_is_scheduled_while_a_renaming_waits_goes_along(
    connection: Connection, another: Another, aside: ThreadPoolExecutor
) -> None:
    """By the transaction that it waits for, which is in that queue already."""
    old = Queue(connection, "zzz")
    gate, renamer = another(), another()
    with gate.transaction():
        old.send("k", connection=gate)
        renaming = aside.submit(run, renamer, topology.rename(old.name, "renamed"))
        wait_until_blocked(connection, renamer)
        schedule(gate, "1s", queues=(old.name,))
    renaming.result()
    assert promote(connection) == 1
    assert Queue(connection, "renamed").ids() == [1, 2]

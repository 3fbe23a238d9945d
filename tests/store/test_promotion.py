"""Delayed events enter their queues in order, whoever moves them."""

from collections.abc import Callable

from tests.store.queue import Connection, Queue

Another = Callable[[], Connection]


def schedule(connection: Connection, *due: str) -> None:
    """Events of one key that fell due so long ago, in the order in which they were published."""
    for number, ago in enumerate(due, 1):
        connection.execute(
            "insert into pgbus.scheduled (due_at, queues, body, headers) values "
            "(clock_timestamp() - %s::interval, '{billing}', %s::text::jsonb, "
            '\'{"x-pgmq-group": "k"}\')',
            (ago, str(number)),
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

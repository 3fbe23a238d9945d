"""Statements of the hot path: prepared once, and as wrong as they would be in a cursor."""

import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pgbus.store import prepared
from pgbus.store.prepared import Prepared
from pgbus.store.query import Query, number
from tests.store.queue import Connection
from tests.waiting import eventually


@pytest.fixture
def statements(connection: Connection) -> Prepared:
    return Prepared(connection)


def adding(more: int = 0) -> Query[int]:
    text = f"select %(one)s::integer + cardinality(%(some)b::text[]) + {more}"
    return Query(text.encode(), {"some": ["a", "b"], "one": 1}, number)


def names(connection: Connection) -> list[str]:
    rows = connection.execute("select name from pg_prepared_statements order by name")
    return [name for (name,) in rows.fetchall()]


def test_a_statement_is_prepared_once(statements: Prepared, connection: Connection) -> None:
    for _ in range(3):
        assert statements.execute(adding()) == [3]
    assert statements.execute(adding(10)) == [13]
    assert names(connection) == ["pgbus_1", "pgbus_2"]


def test_a_parameter_that_stands_in_several_places_is_sent_once(
    statements: Prepared, connection: Connection
) -> None:
    text = b"select %(a)b::integer + %(b)b::integer * %(a)b::integer"
    assert prepared._parse(text).names == ("a", "b")
    assert statements.execute(Query(text, {"a": 2, "b": 5}, number)) == [12]
    [(statement,)] = connection.execute("select statement from pg_prepared_statements").fetchall()
    assert statement == "select $1::integer + $2::integer * $1::integer"


def test_the_types_of_parameters_may_change(statements: Prepared) -> None:
    def typed(value: Any) -> list[str]:
        text = b"select pg_typeof(%(value)b)::text"
        return statements.execute(Query(text, {"value": value}, str))

    values = [1, 2.0, ["a"], 70_000, 1, ["a"]]
    assert [typed(value)[0] for value in values] == [
        "smallint",
        "double precision",
        "text[]",
        "integer",
        "smallint",
        "text[]",
    ]


def test_no_connection_prepares_without_end(
    statements: Prepared, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared, "MOST", 3)
    for more in (*range(6), *range(6)):
        assert statements.execute(adding(more)) == [3 + more]
    assert len(names(connection)) == 3


def test_behind_a_pooler_nothing_is_prepared(connection: Connection) -> None:
    connection.prepare_threshold = None
    assert Prepared(connection).execute(adding()) == [3]
    assert names(connection) == []


def test_a_statement_that_fails_leaves_the_connection_usable(statements: Prepared) -> None:
    divided = Query(b"select 1 / %(by)s::integer", {"by": 0}, number)
    for _ in range(2):
        with pytest.raises(psycopg.errors.DivisionByZero):
            statements.execute(divided)
    with pytest.raises(psycopg.errors.UndefinedTable):
        statements.execute(Query(b"select from nowhere where %(one)s", {"one": True}, number))
    assert statements.execute(adding()) == [3]


def test_a_connection_that_broke_says_so(statements: Prepared, connection: Connection) -> None:
    myself = {"pid": connection.info.backend_pid}
    with pytest.raises(psycopg.OperationalError):
        statements.execute(Query(b"select pg_terminate_backend(%(pid)s)", myself, bool))
    assert connection.broken


@pytest.fixture
def interrupting() -> Iterator[None]:
    """Let SIGUSR1 raise what Ctrl-C raises."""

    def raise_it(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, raise_it)
    yield
    signal.signal(signal.SIGUSR1, before)


def test_who_is_interrupted_waits_no_longer(
    statements: Prepared,
    connection: Connection,
    another: Any,
    interrupting: None,
) -> None:
    main, witness = threading.get_ident(), another()
    pid = connection.info.backend_pid
    sleeps = "select from pg_stat_activity where pid = %s and wait_event = 'PgSleep'"

    def interrupt() -> None:
        eventually(lambda: witness.execute(sleeps, [pid]).rowcount == 1)
        time.sleep(0.3)  # the server may have begun before the main thread waits for it
        signal.pthread_kill(main, signal.SIGUSR1)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        statements.execute(Query(b"select pg_sleep(%(seconds)s)", {"seconds": 30}, str))
    assert statements.execute(adding()) == [3]

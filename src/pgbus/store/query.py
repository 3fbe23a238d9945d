"""Store operations as values: a generator yields typed queries and is sent their rows.

An operation decides what to ask and what the answers mean; a runner waits. The runner for threads
is :func:`run`; one over an asynchronous connection would be as short and share every operation.
(The idea is psycopg's, whose ``generators`` yield and whose ``waiting`` waits.)
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Generic, TypeVar

import msgspec
import psycopg
from psycopg.adapt import AdaptersMap, Transformer
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus, Format
from psycopg.pq.abc import PGresult
from psycopg.rows import tuple_row
from psycopg.types.numeric import Int8BinaryLoader

T = TypeVar("T")
R = TypeVar("R")


class Query(msgspec.Struct, Generic[T], frozen=True):
    """One statement, its parameters, and what to make of each of its rows."""

    text: bytes
    parameters: Sequence[Any] | Mapping[str, Any] | None
    """None sends the text as it is: it may then be a script of many statements."""
    make: Callable[..., T]
    prepare: bool | None = None
    """True for the hot path; None leaves it to the connection."""

    def __repr__(self) -> str:
        return f"Query({self.text!r})"  # its parameters may be somebody's payload


Operation = Generator[Query[Any], list[Any], R]


def ask(query: Query[T]) -> Generator[Query[Any], list[Any], list[T]]:
    """Yield ``query`` and return its rows, typed: ``rows = yield from ask(query)``."""
    rows: list[T] = yield query
    return rows


def ask_one(query: Query[T]) -> Generator[Query[Any], list[Any], T]:
    """Like :func:`ask`, for a query that always returns exactly one row."""
    rows = yield from ask(query)
    return rows[0]


def number(value: int) -> int:
    """Make a row of one number that number."""
    return value


def text(value: str) -> str:
    """Make a row of one text that text."""
    return value


def truth(value: bool) -> bool:
    """Make a row of one truth value that value."""
    return value


def nothing(*_: object) -> None:
    """Make nothing of a row."""


def run(
    connection: "psycopg.Connection[Any]",
    operation: Operation[R],
    execute: "Callable[[Query[Any]], list[Any]] | None" = None,
) -> R:
    """Drive an operation over a connection and return its result.

    Works on any psycopg connection, whatever its row factory, cursor factory or autocommit: the
    cursor is the runner's own. Driver errors are thrown into the operation.

    Parameters:
        execute: executes what is to be prepared, instead of a cursor; see
            :mod:`pgbus.store.prepared`.
    """
    try:
        query = next(operation)
        while True:
            try:
                if execute is not None and query.prepare:
                    rows = execute(query)
                else:
                    with psycopg.Cursor(connection, row_factory=tuple_row) as fresh:
                        rows = _execute(connection, query, fresh)
            except psycopg.Error as error:
                query = operation.throw(error)
            else:
                query = operation.send(rows)
    except StopIteration as stop:
        result: R = stop.value
        return result
    finally:
        operation.close()


def run_script(connection: "psycopg.Connection[Any]", script: bytes) -> None:
    """Execute statements in PostgreSQL's simple protocol, as one message; their rows are ignored.

    Past psycopg's cursors, whose work costs more than the server's where it is but a COMMIT.

    Raises:
        psycopg.Error: the first of them that failed; those behind it were not executed.
    """
    check(connection, connection.pgconn.exec_(script))


class Rows:
    """The rows of a reply, made Python's objects when they are asked for, in whichever thread.

    Moments are numbers: microseconds since the beginning of 2000, UTC, as PostgreSQL has them. A
    ``datetime`` costs as much as the rest of a row, and few are looked at.
    """

    _ADAPTERS = AdaptersMap(psycopg.adapters)
    _ADAPTERS.register_loader("timestamptz", Int8BinaryLoader)

    def __init__(self, result: PGresult) -> None:
        self._count = result.ntuples
        self._transformer = Transformer(self._ADAPTERS)
        self._transformer.set_pgresult(result)

    def __len__(self) -> int:
        return self._count

    def load(self, first: int, end: int) -> list[tuple[Any, ...]]:
        """Return the rows from ``first`` to the one before ``end``."""
        return self._transformer.load_rows(first, end, tuple)


def fetch(connection: "psycopg.Connection[Any]", text: bytes, parameters: Sequence[int]) -> Rows:
    """Execute one statement, and wait for all of its reply at once.

    A cursor of psycopg reads a long reply piece by piece, and each time has to wait for the threads
    that run Python meanwhile, for up to :func:`sys.getswitchinterval`. libpq reads it without them.

    Parameters:
        text: has PostgreSQL's own placeholders, ``$1`` and so on; it is not prepared.

    Raises:
        psycopg.Error: the statement failed, or the connection broke.
    """
    values = [str(value).encode() for value in parameters]
    result = connection.pgconn.exec_params(text, values, result_format=Format.BINARY)
    check(connection, result)
    return Rows(result)


def check(connection: "psycopg.Connection[Any]", result: PGresult) -> None:
    """Raise what a reply says is wrong.

    Raises:
        psycopg.Error: the statement failed, or the connection broke.
    """
    if result.status in (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK):
        return
    error = error_from_result(result, encoding=connection.info.encoding)
    if error.sqlstate is None:  # libpq's own: the connection broke
        raise psycopg.OperationalError(str(error))
    raise error


def send(connection: "psycopg.Connection[Any]", operation: Operation[R]) -> Callable[[], R]:
    """Send an operation of one statement in a pipeline, without waiting for its rows.

    Parameters:
        connection: in pipeline mode.

    Returns:
        What waits for the rows and returns the operation's result.

    Raises:
        StopIteration: the operation asks nothing; its value is the result.
    """
    query = next(operation)
    cursor = psycopg.Cursor(connection, row_factory=tuple_row)
    cursor.execute(query.text, query.parameters, prepare=query.prepare, binary=True)

    def receive() -> R:
        with cursor:
            rows = [query.make(*row) for row in cursor.fetchall()]
        try:
            operation.send(rows)
        except StopIteration as stop:
            result: R = stop.value
            return result
        raise AssertionError("an operation that is sent has one statement")

    return receive


def _execute(
    connection: "psycopg.Connection[Any]",
    query: Query[T],
    cursor: "psycopg.Cursor[tuple[Any, ...]]",
) -> list[T]:
    binary = query.parameters is not None
    cursor.execute(query.text, query.parameters, prepare=query.prepare, binary=binary)
    if cursor.pgresult is None:  # the caller's pipeline, which answers at the end of a block
        with connection.pipeline():
            pass
    result = cursor.pgresult
    # (cursor.description would make an object of each column first.)
    if result is None or not result.nfields:
        return []
    make = query.make
    return [make(*row) for row in cursor.fetchall()]

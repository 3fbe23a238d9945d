"""Statements of the hot path, executed past psycopg's cursors.

What a cursor does for each execution takes as long as the server's work on a small statement, most
of it under the interpreter's lock, which other threads wait for. Here nothing is done but to adapt
the parameters, to wait as the connection waits, and to load the rows.
"""

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import psycopg
from psycopg import generators
from psycopg.abc import Buffer, PQGen
from psycopg.adapt import PyFormat, Transformer
from psycopg.pq import Format
from psycopg.pq.abc import PGresult

from pgbus.store.query import Query, check

T = TypeVar("T")

MOST: Final = 100
"""Statements that one connection prepares; any more are parsed each time."""
_PLACEHOLDER: Final = re.compile(rb"%\((\w+)\)([stb])")


class _Text(NamedTuple):
    """A statement with the server's own placeholders."""

    text: bytes
    names: tuple[str, ...]
    formats: tuple[PyFormat, ...]


class Prepared:
    """The statements that one connection has prepared.

    Parameters:
        connection: nobody else uses it meanwhile, and it is in no pipeline. Where its
            ``prepare_threshold`` is ``None``, nothing is prepared.
    """

    def __init__(self, connection: "psycopg.Connection[Any]") -> None:
        self._connection = connection
        self._transformer = Transformer(connection)
        self._names: dict[tuple[bytes, tuple[int, ...]], bytes] = {}
        self._count = 0

    def execute(self, query: Query[T]) -> list[T]:
        """Execute a query whose parameters have names, and return its rows.

        Raises:
            psycopg.Error: it failed, or the connection broke.
        """
        try:
            return self._execute(query)
        except psycopg.errors.InvalidSqlStatementName:
            # Where a transaction is rolled back, psycopg has the session forget all that was
            # prepared. Nothing was executed.
            self._names.clear()
            return self._execute(query)

    def _execute(self, query: Query[T]) -> list[T]:
        assert isinstance(query.parameters, Mapping)
        statement = _parse(query.text)
        transformer = self._transformer
        values = transformer.dump_sequence(
            [query.parameters[name] for name in statement.names], statement.formats
        )
        assert transformer.types is not None
        name = self._names.get((query.text, transformer.types))
        if name is None:
            name = self._prepare(query.text, statement.text, transformer.types)
        result = self._connection.wait(self._asked(name, statement.text, values))
        transformer.set_pgresult(result)
        make = query.make
        return [make(*row) for row in transformer.load_rows(0, result.ntuples, tuple)]

    def _prepare(self, key: bytes, text: bytes, types: tuple[int, ...]) -> bytes:
        """Prepare a statement, and return its name; an empty one where it is not prepared."""
        if self._connection.prepare_threshold is None or len(self._names) >= MOST:
            return b""
        # Interrupted as it waits for the answer, it may have been prepared: no name is used twice.
        self._count += 1
        name = f"pgbus_{self._count}".encode()
        self._connection.wait(self._parsed(name, text, types))
        self._names[key, types] = name
        return name

    def _parsed(self, name: bytes, text: bytes, types: tuple[int, ...]) -> PQGen[PGresult]:
        self._connection.pgconn.send_prepare(name, text, types)
        return (yield from self._reply())

    def _asked(
        self, name: bytes, text: bytes, values: "Sequence[Buffer | None]"
    ) -> PQGen[PGresult]:
        formats, types = self._transformer.formats, self._transformer.types
        pgconn = self._connection.pgconn
        if name:
            pgconn.send_query_prepared(name, values, formats, Format.BINARY)
        else:
            pgconn.send_query_params(text, values, types, formats, Format.BINARY)
        return (yield from self._reply())

    def _reply(self) -> PQGen[PGresult]:
        results: list[PGresult] = yield from generators.execute(self._connection.pgconn)
        for result in results:  # a second one says that the statement succeeded, but not its commit
            check(self._connection, result)
        return results[0]


@functools.lru_cache(maxsize=1024)
def _parse(text: bytes) -> _Text:
    """Number the placeholders of a statement, each of which has a name of its own."""
    found = [(name.decode(), how.decode()) for name, how in _PLACEHOLDER.findall(text)]
    numbers = iter(range(1, len(found) + 1))
    numbered = _PLACEHOLDER.sub(lambda _: b"$%d" % next(numbers), text)
    return _Text(
        numbered,
        tuple(name for name, _ in found),
        tuple(PyFormat(how) for _, how in found),
    )

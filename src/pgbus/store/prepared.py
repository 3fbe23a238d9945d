"""Statements of the hot path, executed past psycopg's cursors.

What a cursor does for each execution takes as long as the server's work on a small statement, most
of it under the interpreter's lock, which other threads wait for. Here nothing is done but to adapt
the parameters, to wait as the connection waits, and to load the rows.
"""

import functools
import re
from itertools import starmap
from typing import Any, Final, NamedTuple, TypeVar

import psycopg
from psycopg import generators
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
            ``prepare_threshold`` is ``None``, nothing is prepared. Interrupted by a signal, it may
            be left with a statement under way, and is of no more use.
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
        assert isinstance(query.parameters, dict)
        statement = _parse(query.text)
        transformer = self._transformer
        named = map(query.parameters.__getitem__, statement.names)
        values = transformer.dump_sequence(list(named), statement.formats)
        types, formats = transformer.types, transformer.formats
        assert types is not None
        name = self._names.get((query.text, types))
        if name is None:
            name = self._prepare(query.text, statement.text, types)
        pgconn = self._connection.pgconn
        if name:
            pgconn.send_query_prepared(name, values, formats, Format.BINARY)
        else:
            pgconn.send_query_params(statement.text, values, types, formats, Format.BINARY)
        result = self._reply()
        transformer.set_pgresult(result)
        return list(starmap(query.make, transformer.load_rows(0, result.ntuples, tuple)))

    def _prepare(self, key: bytes, text: bytes, types: tuple[int, ...]) -> bytes:
        """Prepare a statement, and return its name; an empty one where it is not prepared."""
        if self._connection.prepare_threshold is None or len(self._names) >= MOST:
            return b""
        # Interrupted as it waits for the answer, it may have been prepared: no name is used twice.
        self._count += 1
        name = f"pgbus_{self._count}".encode()
        self._connection.pgconn.send_prepare(name, text, types)
        self._reply()
        self._names[key, types] = name
        return name

    def _reply(self) -> PGresult:
        """Wait for the answer to what was sent."""
        asked = generators.execute(self._connection.pgconn)
        results: list[PGresult] = self._connection.wait(asked)
        for result in results:  # a second one says that the statement succeeded, but not its commit
            check(self._connection, result)
        return results[0]


@functools.lru_cache(maxsize=1024)
def _parse(text: bytes) -> _Text:
    """Number the placeholders of a statement; one that stands in several places is sent once."""
    found = list(dict.fromkeys(_PLACEHOLDER.findall(text)))
    numbers = {placeholder: b"$%d" % place for place, placeholder in enumerate(found, 1)}
    return _Text(
        _PLACEHOLDER.sub(lambda match: numbers[match.groups()], text),
        tuple(name.decode() for name, _ in found),
        tuple(PyFormat(how.decode()) for _, how in found),
    )

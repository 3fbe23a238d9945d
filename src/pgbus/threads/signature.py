"""What functions can be handlers, for type checkers.

A handler takes the event, and may ask for its context and for a connection, in any order; what has
a default does not matter. Which types go with which is found out when the decorator is applied: see
:func:`pgbus.core.handler.inspect_handler`.
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import psycopg

from pgbus.threads.batch import BatchContext
from pgbus.threads.context import Context

_Connection = psycopg.Connection[Any]


class _WithContext(Protocol):
    def __call__(self, event: Any, /, *, context: Context) -> Any: ...


class _WithBatchContext(Protocol):
    def __call__(self, events: Any, /, *, context: BatchContext) -> Any: ...


class _WithConnection(Protocol):
    def __call__(self, event: Any, /, *, connection: _Connection) -> Any: ...


class _WithBoth(Protocol):
    def __call__(self, event: Any, /, *, context: Context, connection: _Connection) -> Any: ...


HandlerFunction = (
    Callable[[Any], Any]
    | Callable[[Any, Context], Any]
    | Callable[[Context, Any], Any]
    | Callable[[Any, _Connection], Any]
    | Callable[[_Connection, Any], Any]
    | Callable[[Any, Context, _Connection], Any]
    | Callable[[Any, _Connection, Context], Any]
    | Callable[[Context, Any, _Connection], Any]
    | Callable[[Context, _Connection, Any], Any]
    | Callable[[_Connection, Any, Context], Any]
    | Callable[[_Connection, Context, Any], Any]
    | Callable[[Any, BatchContext], Any]
    | Callable[[BatchContext, Any], Any]
    | Callable[[Any, BatchContext, _Connection], Any]
    | Callable[[Any, _Connection, BatchContext], Any]
    | Callable[[BatchContext, Any, _Connection], Any]
    | Callable[[BatchContext, _Connection, Any], Any]
    | Callable[[_Connection, Any, BatchContext], Any]
    | Callable[[_Connection, BatchContext, Any], Any]
    # A checker cannot be told "by whatever name": these are the usual ones.
    | _WithContext
    | _WithBatchContext
    | _WithConnection
    | _WithBoth
)

F = TypeVar("F", bound=HandlerFunction)
"""A handler, which the decorator returns as it is."""

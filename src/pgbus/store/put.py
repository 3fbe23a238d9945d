"""Publishing where it is known where to: the statement calls the queues' own functions.

The server plans nothing then, and evaluates no pattern; it only compares the stamp of the bindings.
"""

import functools
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from uuid import UUID

from psycopg import sql
from psycopg.adapt import PyFormat

from pgbus.core.encoding import Encoded
from pgbus.model.envelope import Receipt
from pgbus.store.query import Operation, Query, ask
from pgbus.store.routes import Route
from pgbus.store.statements import compose

MOST_QUEUES = 256
"""Queues in one statement, each of which is a call in it."""
MOST_PARTS = 16
"""Parts of the events that differ from queue to queue, each sent as arrays of its own: beyond, it
would be more to send than it saves."""

KNOWN = -1
"""What the statement says of an id that it knows."""
Plan = tuple[tuple[int, int], ...]
"""For each subscription its number, and that of the arrays that it gets."""


def put(
    events: Sequence[Encoded],
    routes: Mapping[str, Route | None],
    generation: UUID,
    *,
    strict: bool,
) -> Operation[list[Receipt] | None]:
    """Store plain events in the queues that are remembered.

    Parameters:
        strict: store nothing where a topic leads nowhere.

    Returns:
        The receipts; ``None`` where nothing was stored, because the routes are not all known, not
        all lead to subscriptions, lead nowhere, or hold no longer.
    """
    numbers: dict[str, tuple[int, ...]] = {}
    for topic, route in routes.items():
        if route is None or route.subscriptions is None:
            return None
        if strict and not route.subscriptions:
            return None
        numbers[topic] = route.subscriptions
    plan, parts = _plan(numbers)
    if len(plan) > MOST_QUEUES or len(parts) > MOST_PARTS:
        return None
    parameters: dict[str, object] = {"generation": generation}
    for index, topics in enumerate(parts):
        part = events if len(topics) == len(routes) else [e for e in events if e.topic in topics]
        parameters[f"bodies{index}"] = [event.body for event in part]
        parameters[f"headers{index}"] = [event.headers for event in part]
    query = Query(_statement(plan), parameters, _outcome, prepare=True)
    [outcome] = yield from ask(query)
    if outcome is None:
        return None
    return [Receipt(e.id, e.topic, len(numbers[e.topic]), duplicate=False) for e in events]


def put_one(
    event: Encoded, route: Route | None, generation: UUID, *, strict: bool, window: timedelta
) -> Operation[list[Receipt] | None]:
    """Store one event that waits for nothing: :func:`put` with less ado, for what most calls are.

    Parameters:
        window: for how long an id given by its publisher is remembered.
    """
    numbers = None if route is None else route.subscriptions
    if numbers is None or len(numbers) > MOST_QUEUES or (strict and not numbers):
        return None
    parameters: dict[str, object] = {
        "generation": generation,
        "bodies0": event.body,
        "headers0": event.headers,
    }
    if event.given_id:
        parameters |= {"id": event.id, "window": window}
    text = _statement_of_one(numbers, identified=event.given_id)
    [outcome] = yield from ask(Query(text, parameters, _outcome, prepare=True))
    if outcome is None:
        return None
    duplicate = outcome == KNOWN
    return [Receipt(event.id, event.topic, 0 if duplicate else len(numbers), duplicate)]


def _plan(numbers: Mapping[str, tuple[int, ...]]) -> tuple[Plan, list[Collection[str]]]:
    """Return which queue gets which part of the events, and the topics of each part."""
    if len(set(numbers.values())) == 1:
        [everywhere] = set(numbers.values())
        return tuple((number, 0) for number in everywhere), [numbers.keys()] * bool(everywhere)
    wanted: dict[int, list[str]] = {}
    for topic, some in numbers.items():
        for number in some:
            wanted.setdefault(number, []).append(topic)
    parts = list(dict.fromkeys(map(frozenset, wanted.values())))
    plan = tuple((number, parts.index(frozenset(topics))) for number, topics in wanted.items())
    return tuple(sorted(plan)), list(parts)


@functools.lru_cache(maxsize=1024)
def _statement_of_one(numbers: tuple[int, ...], *, identified: bool) -> bytes:
    plan = tuple((number, 0) for number in numbers)
    return _statement(plan, name="put_new" if identified else "put", single=True)


@functools.lru_cache(maxsize=1024)
def _statement(plan: Plan, *, name: str = "put", single: bool = False) -> bytes:
    def array(name: str) -> sql.Composable:
        if single:  # a text is sent with less ado than an array
            return sql.SQL("array[{}]").format(sql.Placeholder(name))
        return sql.Placeholder(name, PyFormat.BINARY)

    calls = [
        compose(
            "publish",
            "put_call",
            function=sql.Identifier("pgbus", f"put_{number}"),
            bodies=array(f"bodies{index}"),
            headers=array(f"headers{index}"),
        )
        for number, index in plan
    ]
    together = sql.SQL(" + ").join(calls) if calls else sql.SQL("0")
    return compose("publish", name, calls=together).as_bytes()


def _outcome(value: int | None) -> int | None:
    """Return what the statement says: nothing where the routes hold no longer."""
    return value

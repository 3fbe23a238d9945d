"""Publishing where it is known where to: the statement calls the queues' own functions.

The server plans nothing then, and evaluates no pattern; it only compares the stamp of the bindings.
"""

import functools
from collections.abc import Mapping, Sequence
from uuid import UUID

from psycopg import sql
from psycopg.adapt import PyFormat

from pgbus.core.encoding import Encoded
from pgbus.model.envelope import Receipt
from pgbus.store.query import Operation, Query, ask
from pgbus.store.routes import Route
from pgbus.store.statements import compose

MOST_QUEUES = 16
"""Queues in one statement: beyond, arrays for each of them would be more to send than it saves."""

Plan = tuple[tuple[int, int], ...]
"""For each subscription its number, and that of the arrays that it gets."""


def put(
    events: Sequence[Encoded], routes: Mapping[str, Route | None], generation: UUID
) -> Operation[list[Receipt] | None]:
    """Store plain events in the queues that are remembered.

    Returns:
        The receipts; ``None`` where nothing was stored, because the routes are not all known, not
        all lead to subscriptions, or hold no longer.
    """
    numbers: dict[str, tuple[int, ...]] = {}
    for topic, route in routes.items():
        if route is None or route.subscriptions is None:
            return None
        numbers[topic] = route.subscriptions
    wanted: dict[int, frozenset[str]] = {}
    for subscription in sorted({number for some in numbers.values() for number in some}):
        wanted[subscription] = frozenset(
            topic for topic, some in numbers.items() if subscription in some
        )
    if len(wanted) > MOST_QUEUES:
        return None
    arrays = list(dict.fromkeys(wanted.values()))
    plan = tuple((subscription, arrays.index(topics)) for subscription, topics in wanted.items())
    parameters: dict[str, object] = {"generation": generation}
    for index, topics in enumerate(arrays):
        some = events if len(topics) == len(routes) else [e for e in events if e.topic in topics]
        parameters[f"bodies{index}"] = [event.body for event in some]
        parameters[f"headers{index}"] = [event.headers for event in some]
    [stored] = yield from ask(Query(_statement(plan), parameters, _stored, prepare=True))
    if not stored:
        return None
    return [Receipt(e.id, e.topic, len(numbers[e.topic]), duplicate=False) for e in events]


@functools.lru_cache(maxsize=1024)
def _statement(plan: Plan) -> sql.Composed:
    calls = [
        compose(
            "publish",
            "put_call",
            function=sql.Identifier("pgbus", f"put_{subscription}"),
            bodies=sql.Placeholder(f"bodies{index}", PyFormat.BINARY),
            headers=sql.Placeholder(f"headers{index}", PyFormat.BINARY),
        )
        for subscription, index in plan
    ]
    return compose("publish", "put", calls=sql.SQL(" + ").join(calls) if calls else sql.SQL("0"))


def _stored(value: int | None) -> bool:
    return value is not None

"""Publishing: any number of events and topics in one round trip."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from pgbus.core.encoding import Encoded
from pgbus.errors import Unroutable
from pgbus.model.envelope import Receipt
from pgbus.model.names import TAIL_PREFIX
from pgbus.store.arrays import numbers
from pgbus.store.put import put, put_one
from pgbus.store.query import Operation, Query, ask_one
from pgbus.store.routes import Route, Routes
from pgbus.store.statements import statement


class Stored(NamedTuple):
    """The server's answer to a publish; indexes count from 1."""

    generation: UUID
    queues: list[str]
    direct: list[str | None]
    duplicates: list[int]


def publish(
    events: Sequence[Encoded], routes: Routes, *, strict: bool, window: timedelta
) -> Operation[list[Receipt]]:
    """Store events in every queue that their topics lead to.

    Parameters:
        events: what to publish; their order is their order within a key.
        routes: what the process remembers; learns from the answer.
        strict: store nothing at all where a topic leads nowhere.
        window: for how long an id given by a publisher is remembered.

    Raises:
        Unroutable: see ``strict``; the transaction stays usable.
    """
    if not events:
        return []
    receipts = yield from publish_known(events, routes, strict=strict, window=window)
    if receipts is not None:
        return receipts
    return (yield from _publish(events, routes, strict=strict, window=window))


def publish_known(
    events: Sequence[Encoded], routes: Routes, *, strict: bool, window: timedelta
) -> Operation[list[Receipt] | None]:
    """Store events where their topics are remembered to lead; in one statement at most.

    Parameters:
        strict, window: see :func:`publish`.

    Returns:
        The receipts; ``None`` where nothing was stored, because only the server can decide.
    """
    single = len(events) == 1
    if any(event.due is not None or (event.given_id and not single) for event in events):
        return None
    topics = list(dict.fromkeys([event.topic for event in events]))
    generation, known = routes.recall(topics)
    if generation is None:
        return None
    if single:
        return (yield from put_one(events[0], known[0], generation, strict=strict, window=window))
    remembered = dict(zip(topics, known, strict=True))
    return (yield from put(events, remembered, generation, strict=strict))


def _publish(
    events: Sequence[Encoded], routes: Routes, *, strict: bool, window: timedelta
) -> Operation[list[Receipt]]:
    """Let the server decide everything."""
    topics = list(dict.fromkeys(event.topic for event in events))
    number = {topic: index for index, topic in enumerate(topics, 1)}
    repeated = _repeated(events)
    kept = [event for index, event in enumerate(events) if index not in repeated]
    generation, known = routes.recall(topics)
    stored = yield from ask_one(
        Query(
            statement("publish", "publish"),
            (
                generation,
                topics,
                [None if route is None else route.queues for route in known],
                numbers(number[event.topic] for event in kept),
                [event.body for event in kept],
                [event.headers for event in kept],
                _ids(kept),
                window,
                *_times(kept),
                strict,
            ),
            Stored,
        )
    )
    routes.learn(stored.generation, topics, list(map(_route, stored.queues, stored.direct)))
    counts = {topic: _count(queues) for topic, queues in zip(topics, stored.queues, strict=True)}
    if strict and 0 in counts.values():
        lost = ", ".join(topic for topic, count in counts.items() if not count)
        raise Unroutable(f"no subscription matches {lost}; nothing of this call was published")
    duplicates = {id(kept[index - 1]) for index in stored.duplicates}
    receipts = []
    for index, event in enumerate(events):
        duplicate = index in repeated or id(event) in duplicates
        queues = 0 if duplicate else counts[event.topic]
        receipts.append(Receipt(event.id, event.topic, queues, duplicate))
    return receipts


def _route(queues: str, direct: str | None) -> Route:
    if direct is None:
        return Route(queues, None)
    # Sorted, so that all that call put_<number> go by the queues in one order.
    return Route(queues, tuple(sorted(int(number) for number in direct.split(",") if number)))


def _count(queues: str) -> int:
    """Return how many queues there are, but for those of ``pgbus tail``."""
    if not queues:
        return 0
    if TAIL_PREFIX not in queues:
        return queues.count(",") + 1
    return sum(not queue.startswith(TAIL_PREFIX) for queue in queues.split(","))


def _repeated(events: Sequence[Encoded]) -> set[int]:
    """Return the places of events whose given id stands earlier in the same call."""
    seen: set[UUID] = set()
    repeated = set()
    for index, event in enumerate(events):
        if event.given_id:
            if event.id in seen:
                repeated.add(index)
            seen.add(event.id)
    return repeated


def _ids(events: Sequence[Encoded]) -> list[UUID | None] | None:
    if not any(event.given_id for event in events):
        return None
    return [event.id if event.given_id else None for event in events]


def _times(
    events: Sequence[Encoded],
) -> tuple[list[datetime | None] | None, str | None]:
    if all(event.due is None for event in events):
        return None, None
    due = [event.due if isinstance(event.due, datetime) else None for event in events]
    delay = numbers(
        event.due.total_seconds() if isinstance(event.due, timedelta) else None for event in events
    )
    return due, delay

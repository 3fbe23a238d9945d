"""Subscriptions: declaring, binding, dropping, renaming, counting."""

from collections.abc import Sequence

from pgbus.errors import ConfigurationError
from pgbus.model.status import Binding, SubscriptionStatus
from pgbus.store.arrays import numbers
from pgbus.store.query import Operation, Query, ask, ask_one, number, text, truth
from pgbus.store.statements import statement


def declare(name: str, *, ordered: bool, park: bool) -> Operation[int]:
    """Create a subscription's queue, dead-letter queue and functions; return its number."""
    query = Query(statement("topology", "declare"), (name, ordered, park), number)
    return (yield from ask_one(query))


def bind(subscription: int, patterns: Sequence[str], *, prune: bool) -> Operation[list[str]]:
    """Bind a subscription to expanded patterns; return the bindings that were pruned."""
    query = Query(statement("topology", "bind"), (subscription, list(patterns), prune), text)
    return (yield from ask(query))


def bindings() -> Operation[list[Binding]]:
    """Return every binding, by queue and pattern."""
    return (yield from ask(Query(statement("topology", "bindings"), (), Binding)))


def drop(name: str, *, force: bool) -> Operation[None]:
    """Drop a subscription.

    Raises:
        ConfigurationError: there is none, or it holds events and ``force`` is false.
    """
    query = Query(statement("topology", "drop"), (name, force), _counts)
    held = yield from ask_one(query)
    if held is None:
        raise ConfigurationError(f"there is no subscription {name!r}")
    events, letters = held
    if (events or letters) and not force:
        raise ConfigurationError(
            f"subscription {name!r} still holds {events} events and {letters} dead letters: "
            "handle them first, or drop it with force"
        )


def rename(old: str, new: str) -> Operation[None]:
    """Rename a subscription with everything it has.

    Raises:
        ConfigurationError: there is no subscription ``old``.
    """
    query = Query(statement("topology", "rename"), (old, new), truth)
    if not (yield from ask_one(query)):
        raise ConfigurationError(f"there is no subscription {old!r}")


def status(names: Sequence[str] | None) -> Operation[list[SubscriptionStatus]]:
    """Count what subscriptions hold: those named, or all."""
    parameters = (None if names is None else list(names),)
    return (yield from ask(Query(statement("topology", "status"), parameters, SubscriptionStatus)))


def idle(subscriptions: Sequence[int]) -> Operation[bool]:
    """Return whether nothing is visible, leased or waiting for a retry."""
    query = Query(statement("topology", "idle"), (numbers(subscriptions),), truth)
    return (yield from ask_one(query))


def _counts(value: list[int] | None) -> list[int] | None:
    return value

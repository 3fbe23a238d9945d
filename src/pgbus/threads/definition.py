"""What ``@bus.subscribe`` declares: checked when it is given, and put together with its handler."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from pgbus.core.handler import Handler, Kinds, inspect_handler, subscription_name
from pgbus.core.patterns import check_pattern, expand
from pgbus.errors import ConfigurationError
from pgbus.model.checks import check_choice, check_instance, check_number, check_whole
from pgbus.model.config import OnExhausted, Retry
from pgbus.model.names import check_name

SHORTEST_TIMEOUT = 0.001
"""Seconds."""
BATCH = 100
MOST_BATCH = 1000


class Options(TypedDict):
    """The settings of a subscription; see :meth:`pgbus.Bus.subscribe`."""

    concurrency: int
    ordered: bool
    retry: Retry
    timeout: float | None
    on_exhausted: OnExhausted


@dataclass(frozen=True, slots=True)
class Definition:
    """A subscription as the code declares it."""

    name: str
    patterns: tuple[str, ...]
    expansions: tuple[str, ...]
    """The patterns as pgmq's bindings."""
    handler: Handler
    concurrency: int
    ordered: bool
    retry: Retry
    timeout: float | None
    on_exhausted: OnExhausted
    batch: int = 1
    """The most events that one call gets."""

    @property
    def types(self) -> tuple[str, ...]:
        """``topic@version`` of each event type that the handler can decode.

        ``topic@`` where it decodes events of a topic that do not say their version: that cannot be
        told from the versions, among which are those that upcasts lead from.
        """
        said = [f"{topic}@{version}" for topic, version in self.handler.types]
        return (*said, *(f"{topic}@" for topic in self.handler.unversioned))


def check_subscription(patterns: Sequence[str], options: Options, batch: int | None) -> None:
    """Raise unless what was given to ``subscribe`` can be used.

    Raises:
        ConfigurationError: which value is out of range.
        InvalidPattern: a pattern is none.
    """
    if not patterns or not all(isinstance(pattern, str) for pattern in patterns):
        raise ConfigurationError('subscribe needs patterns, as in @bus.subscribe("orders.*")')
    for pattern in patterns:
        check_pattern(pattern)
    check_whole("concurrency", options["concurrency"], 1, 1000)
    check_choice("ordered", options["ordered"], (True, False))
    check_instance("retry", options["retry"], Retry)
    if options["timeout"] is not None:
        check_number("timeout", options["timeout"], SHORTEST_TIMEOUT)
    check_choice("on_exhausted", options["on_exhausted"], ("skip", "park"))
    if batch is not None:
        check_whole("batch", batch, 1, MOST_BATCH)


def define(
    function: Callable[..., Any],
    kinds: Kinds,
    patterns: tuple[str, ...],
    name: str | None,
    service: str | None,
    options: Options,
    batch: int | None,
) -> Definition:
    """Put a subscription together.

    Parameters:
        function: the handler.
        kinds: the types of what a handler may ask for.
        name: the subscription's, or ``None`` for one made of the handler's.
        service: the bus's, as it was given.

    Raises:
        ConfigurationError: the handler's signature does not fit.
        InvalidName: the name is none.
    """
    chosen = check_name(subscription_name(function, service) if name is None else name)
    handler = inspect_handler(function, patterns, kinds, batch=batch is not None)
    return Definition(
        name=chosen,
        patterns=patterns,
        expansions=tuple(dict.fromkeys(one for text in patterns for one in expand(text))),
        handler=handler,
        batch=(batch or BATCH) if handler.is_batch else 1,
        **options,
    )

"""How bodies of one version become those of another: ``@upcast`` and ``@downcast``.

A step goes from one version to the next. Steps are chained, on decoded JSON; the type itself checks
only the end. The current version takes no step.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec

from pgbus.core.decoding import decode
from pgbus.errors import ConfigurationError, PayloadError
from pgbus.model.event import Event, Step

S = TypeVar("S", bound=Step)

_JSON = msgspec.json.Decoder(dict[str, Any])


def upcast(kind: type[Event], *, from_version: int) -> Callable[[S], S]:
    """Make bodies of ``from_version`` into those of the next version; returns a decorator.

    ::

        @upcast(OrderCreated, from_version=1)
        def add_currency(old: dict[str, Any]) -> dict[str, Any]:
            return old | {"currency": "EUR"}

    Handlers of ``OrderCreated`` then take events of version 1, too: through this step and those of
    the versions behind it, up to the type's own. An exception of the step makes the event a dead
    letter.

    Parameters:
        kind: the event type in its current version.
        from_version: the version that the function takes, from 1 to the one before the type's.

    Raises:
        ConfigurationError: the type has no topic, there is no such earlier version, or it has
            an upcast already.
    """
    return _register("upcast", kind, "from_version", from_version, kind.__event_upcasts__)


def downcast(kind: type[Event], *, to_version: int) -> Callable[[S], S]:
    """Make bodies of the version behind ``to_version`` into that one; returns a decorator.

    Every event of the type is then published in both forms, the older one in a header, so that
    subscribers that know only the older version are served during a rollout. Remove it when the
    last of them is gone. For versions further back, one step is needed for each version between.

    Parameters:
        kind: the event type in its current version.
        to_version: the version that the function returns, from 1 to the one before the type's.

    Raises:
        ConfigurationError: the type has no topic, there is no such earlier version, or it has
            a downcast already.
    """
    return _register("downcast", kind, "to_version", to_version, kind.__event_downcasts__)


def _register(
    what: str, kind: type[Event], parameter: str, version: int, steps: dict[int, Step]
) -> Callable[[S], S]:
    name = kind.__qualname__
    if kind.__event_topic__ is None:
        raise ConfigurationError(f"{what} of {name}: it names no topic, and so has no versions")
    current = kind.__event_version__
    if version not in range(1, current):
        raise ConfigurationError(
            f"{what} of {name}: {parameter}={version!r} is not an earlier version (the type's own "
            f"is {current})"
        )
    if version in steps:
        raise ConfigurationError(f"{what} of {name}: there is one with {parameter}={version}")

    def decorate(function: S) -> S:
        steps[version] = function
        return function

    return decorate


def upcast_versions(kind: type[Event]) -> tuple[int, ...]:
    """Return the earlier versions whose bodies become those of the type, oldest first.

    Raises:
        ConfigurationError: there is an upcast from which no others lead to the type's version.
    """
    steps, current = kind.__event_upcasts__, kind.__event_version__
    first = current
    while first - 1 in steps:
        first -= 1
    stray = [version for version in steps if version < first]
    if stray:
        raise ConfigurationError(
            f"upcasts of {kind.__qualname__}: that from version {max(stray)} leads nowhere; "
            f"there is none from version {first - 1}"
        )
    return tuple(range(first, current))


def downcast_versions(kind: type[Event]) -> tuple[int, ...]:
    """Return the earlier versions that are sent along with the type's own, newest first."""
    steps = kind.__event_downcasts__
    version = kind.__event_version__ - 1
    found = []
    while version in steps:
        found.append(version)
        version -= 1
    return tuple(found)


def raised(kind: type[Event], version: int, body: str | bytes | None) -> bytes:
    """Return the body of an earlier version as one of the type's own.

    Raises:
        PayloadError: it is no JSON object, or a step failed.
    """
    value = decode(_JSON, body)
    for step in range(version, kind.__event_version__):
        value = _step("upcast", kind, kind.__event_upcasts__[step], f"from version {step}", value)
    return msgspec.json.encode(value)


def lowered(kind: type[Event], body: str) -> dict[str, dict[str, Any]]:
    """Return the body of an event in the earlier versions that its type's downcasts lead to.

    Raises:
        PayloadError: it is no JSON object, or a step failed.
    """
    value = decode(_JSON, body)
    made: dict[str, dict[str, Any]] = {}
    for version in downcast_versions(kind):
        step = kind.__event_downcasts__[version]
        value = _step("downcast", kind, step, f"to version {version}", value)
        made[str(version)] = value
        # The next step may change what it is given.
        value = decode(_JSON, msgspec.json.encode(value))
    return made


def _step(
    what: str, kind: type[Event], step: Step, which: str, value: dict[str, Any]
) -> dict[str, Any]:
    try:
        made = step(value)
        msgspec.json.encode(made)
    except Exception as error:
        # Its words may quote the payload.
        raise PayloadError(
            f"the {what} of {kind.__qualname__} {which} failed: {type(error).__name__}"
        ) from error
    if not isinstance(made, Mapping):
        raise PayloadError(
            f"the {what} of {kind.__qualname__} {which} returned a {type(made).__name__}, not a "
            "dict"
        )
    return made

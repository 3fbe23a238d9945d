"""Handlers: what a signature says of its parameters, and a subscription's default name."""

import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from pgbus.core.account import text_of
from pgbus.core.bodies import Bodies, inspect_bodies
from pgbus.core.hints import members, name_of, plain_type, unwrapped
from pgbus.core.patterns import matches
from pgbus.errors import ConfigurationError
from pgbus.model.event import Event
from pgbus.model.names import MAX_NAME, check_name


@dataclass(frozen=True, slots=True)
class Kinds:
    """The types of what a handler may ask for beside its events; they are the shell's."""

    context: type
    batch_context: type
    connection: type
    async_connection: type
    """What no handler gets."""


@dataclass(frozen=True, kw_only=True)
class Handler(Bodies):
    """A function and how it wants to be called; see :func:`inspect_handler`."""

    function: Callable[..., Any]
    event_parameter: str
    context_parameter: str | None
    connection_parameter: str | None
    is_async: bool
    is_batch: bool = False
    """It takes a list of events."""
    positional: tuple[str, ...] = ()
    """Those of the parameters that cannot be given by name, as in ``list.append``."""
    is_plain: bool = False
    """It wants the event alone, as its first argument."""

    def call(self, event: Any, context: Any = None, connection: Any = None) -> Any:
        """Call the function with those of the arguments it asks for.

        Returns:
            What the function returns: a coroutine, where ``is_async``.
        """
        if self.is_plain:
            return self.function(event)
        arguments = {self.event_parameter: event}
        if self.context_parameter is not None:
            arguments[self.context_parameter] = context
        if self.connection_parameter is not None:
            arguments[self.connection_parameter] = connection
        if self.positional:
            first = [arguments.pop(name) for name in self.positional]
            return self.function(*first, **arguments)
        return self.function(**arguments)


def inspect_handler(
    function: Callable[..., Any],
    patterns: Sequence[str],
    kinds: Kinds,
    *,
    batch: bool = False,
) -> Handler:
    """Find out how a handler is to be called.

    A parameter annotated with the type of a context or of connections gets that; of the others, the
    first required one gets the event. Its annotation, ``Any`` where there is none,
    decides how a body is decoded: event types by topic and version, and at most one other type
    for everything else. An annotation ``list[E]`` of event types asks for batches.

    Parameters:
        function: any callable: a function, a bound method, a ``functools.partial``.
        patterns: the subscription's, to find types that could never be delivered.
        kinds: the types of what it may ask for beside its events.
        batch: the subscription was given a batch size, so that any list is one of events.

    Raises:
        ConfigurationError: the function cannot be called so, or an annotation cannot be decoded.
    """
    name = name_of(function)
    target = _target(function, name)
    hints = _hints(target, name)
    found = _parameters(function, name)
    roles: dict[str, str] = {}
    rest: list[inspect.Parameter] = []
    for parameter in found:
        hint = plain_type(hints.get(parameter.name, Any))
        role = _role(hint, kinds, name, parameter.name)
        if role is None:
            rest.append(parameter)
        elif role in roles:
            raise ConfigurationError(
                f"handler {name}: both {roles[role]!r} and {parameter.name!r} ask for the {role}"
            )
        else:
            roles[role] = parameter.name
    event = _event_parameter(rest, name)
    is_async = inspect.iscoroutinefunction(target)
    if is_async and "connection" in roles:
        raise ConfigurationError(
            f"handler {name}: an async handler cannot take a psycopg.Connection, which would block "
            "the event loop"
        )
    hint = hints.get(event, Any)
    element = _element(hint, name, batch=batch)
    if "context" in roles:
        wanted = kinds.context if element is None else kinds.batch_context
        if not issubclass(_class(hints[roles["context"]]), wanted):
            raise ConfigurationError(
                f"handler {name}: it takes {'one event' if element is None else 'batches'}, so "
                f"{roles['context']!r} is a {name_of(wanted)}"
            )
    bodies = inspect_bodies(hint if element is None else element, f"handler {name}")
    for topic, version in bodies.decoders:
        if not any(matches(pattern, topic) for pattern in patterns):
            kind = name_of(bodies.decoders[topic, version].type)
            raise ConfigurationError(
                f"handler {name}: {kind} is published under {topic!r}, which none of the patterns "
                f"{', '.join(map(repr, patterns))} matches"
            )
    used = {event, *roles.values()}
    return Handler(
        function=function,
        decoders=bodies.decoders,
        fallback=bodies.fallback,
        event_parameter=event,
        context_parameter=roles.get("context"),
        connection_parameter=roles.get("connection"),
        is_async=is_async,
        is_batch=element is not None,
        positional=_positional(found, used, name),
        is_plain=_is_plain(found, used, event),
        _versions=bodies._versions,
    )


def subscription_name(function: Callable[..., Any], service: str | None) -> str:
    """Return what a subscription is called whose author gave no name: ``<package>_<function>``.

    Parameters:
        function: the handler.
        service: the bus's ``service``; where it has none, the handler's top-level package, or for
            a handler in a script, the script's name.

    Raises:
        ConfigurationError: the function has no name, as a lambda.
        InvalidName: what comes out cannot name a subscription.
    """
    target = unwrapped(function)
    own = getattr(target, "__name__", type(target).__name__)
    if own == "<lambda>":
        raise ConfigurationError("a lambda has no name: give the subscription one with name=…")
    package = service or _package(getattr(target, "__module__", None) or type(target).__module__)
    text = re.sub(r"[^a-z0-9_]", "_", f"{package}_{own}".lower())
    # A name begins with a letter.
    return check_name(re.sub(r"\A[^a-z]+", "", text)[:MAX_NAME])


def _package(module: str) -> str:
    if module != "__main__":
        return module.partition(".")[0]
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None:  # python -m package.module
        return str(spec.name).partition(".")[0]
    file = getattr(main, "__file__", None)
    return "main" if file is None else PurePath(file).stem


def _target(function: Any, name: str) -> Any:
    """Return the function that is really called, whose annotations and kind count."""
    target = unwrapped(function)
    if not callable(target) or isinstance(target, type):
        raise ConfigurationError(f"handler {name}: a handler is a function, not this")
    if inspect.ismethod(target):
        target = target.__func__
    elif not inspect.isroutine(target):
        target = type(target).__call__
    if inspect.isgeneratorfunction(target) or inspect.isasyncgenfunction(target):
        raise ConfigurationError(f"handler {name}: a generator would never run; use no yield")
    return target


def _hints(target: Any, name: str) -> dict[str, Any]:
    """Return the types of the parameters; what a function returns does not matter here."""
    annotations = {
        parameter: annotation
        for parameter, annotation in getattr(target, "__annotations__", {}).items()
        if parameter != "return"
    }
    scope = getattr(inspect.unwrap(target), "__globals__", {})
    hints: dict[str, Any] = {}
    for parameter, annotation in annotations.items():
        # One at a time, to say which.
        holder = types.SimpleNamespace(__annotations__={parameter: annotation})
        try:
            hints |= typing.get_type_hints(holder, globalns=scope, include_extras=True)
        except Exception as error:
            raise ConfigurationError(
                f"handler {name}: the annotation {annotation!r} of {parameter!r} cannot be "
                f"resolved ({type(error).__name__}: {text_of(error)}); import or define it at the "
                "top of the module, outside of TYPE_CHECKING"
            ) from error
    return hints


def _parameters(function: Callable[..., Any], name: str) -> list[inspect.Parameter]:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"handler {name}: its parameters cannot be found") from error
    return [
        parameter
        for parameter in signature.parameters.values()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]


def _class(hint: Any) -> type:
    found = typing.get_origin(plain_type(hint)) or plain_type(hint)
    assert isinstance(found, type)
    return found


def _element(hint: Any, name: str, *, batch: bool) -> Any:
    """Return what a batch is a list of, or ``None`` where the handler takes single events."""
    bare = plain_type(hint)
    if typing.get_origin(bare) is list:
        [element] = typing.get_args(bare)
        events = [isinstance(one, type) and issubclass(one, Event) for one in members(element)]
        if batch or all(events):
            return element
    elif batch:
        raise ConfigurationError(
            f"handler {name}: it was given batch=…, so annotate its events as list[…]"
        )
    return None


def _role(hint: Any, kinds: Kinds, name: str, parameter: str) -> str | None:
    """Return "context" or "connection" for a parameter that asks for it."""
    contexts = (kinds.context, kinds.batch_context)
    for member in members(hint):
        kind = typing.get_origin(member) or member
        if not isinstance(kind, type):
            continue
        if issubclass(kind, kinds.async_connection):
            raise ConfigurationError(
                f"handler {name}: {parameter!r} asks for a psycopg.AsyncConnection, which is not "
                "supported; a plain handler may take a psycopg.Connection"
            )
        special = issubclass(kind, (*contexts, kinds.connection))
        if special and member is not hint:
            raise ConfigurationError(
                f"handler {name}: {parameter!r} may be a {name_of(kind)} or something else; "
                f"annotate it with {name_of(kind)} alone"
            )
        if special:
            return "context" if issubclass(kind, contexts) else "connection"
    return None


def _event_parameter(rest: list[inspect.Parameter], name: str) -> str:
    required = [parameter.name for parameter in rest if parameter.default is parameter.empty]
    if len(required) > 1:
        raise ConfigurationError(
            f"handler {name}: {required[0]!r} gets the event, but nothing is known for "
            f"{', '.join(map(repr, required[1:]))}: annotate it as Context or "
            "psycopg.Connection, or give it a default"
        )
    if required:
        return required[0]
    if not rest:
        raise ConfigurationError(f"handler {name}: it has no parameter for the event")
    return rest[0].name


def _positional(found: list[inspect.Parameter], used: set[str], name: str) -> tuple[str, ...]:
    only = [parameter.name for parameter in found if parameter.kind is parameter.POSITIONAL_ONLY]
    given = tuple(parameter for parameter in only if parameter in used)
    if given != tuple(only[: len(given)]):
        raise ConfigurationError(
            f"handler {name}: {', '.join(map(repr, given))} can only be given by position, behind "
            "parameters that are left out"
        )
    return given


def _is_plain(found: list[inspect.Parameter], used: set[str], event: str) -> bool:
    return used == {event} and found[0].name == event and found[0].kind is not found[0].KEYWORD_ONLY

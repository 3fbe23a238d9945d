"""What a handler's signature says: which parameter is what, and how a body is decoded."""

import functools
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Annotated, Any, Union

import msgspec
import psycopg

from pgbus.core.decoding import decode
from pgbus.core.evolution import raised, upcast_versions
from pgbus.core.patterns import matches
from pgbus.errors import ConfigurationError, PayloadError, PgbusError
from pgbus.model.envelope import Incoming
from pgbus.model.event import Event
from pgbus.model.names import MAX_NAME, check_name

Decoder = msgspec.json.Decoder[Any]
TypeKey = tuple[str, int]
"""An event type's topic and version."""


_JSON_TYPES = (dict, list, str, int, float, bool)


class UnknownType(PgbusError):
    """An event whose topic or version the handler does not know. Caught by the worker."""

    def __init__(self, topic: str, version: int | None, why: str = "") -> None:
        said = "without a version" if version is None else f"version {version}"
        super().__init__(f"no type for topic {topic!r} {said}" + (f": {why}" if why else ""))
        self.topic = topic
        self.version = version
        self.why = why
        """What kept a type of another version from decoding it."""


@dataclass(frozen=True, kw_only=True)
class Bodies:
    """How bodies are decoded, by topic and version; see :func:`inspect_bodies`."""

    decoders: Mapping[TypeKey, Decoder]
    """Of the event types of the annotation, in its order."""
    fallback: Decoder | None
    """For everything else: of ``dict``, ``Any``, or one type that is no ``Event``."""
    _versions: Mapping[str, int] = field(default_factory=dict, repr=False)
    """The version that an event without one has, by topic."""
    _adopted: dict[TypeKey, Decoder] = field(default_factory=dict, repr=False)
    """For versions that another type was found to read; see :meth:`adopt`."""

    @property
    def types(self) -> tuple[TypeKey, ...]:
        """The topics and versions that can be decoded: those of the annotation, in its order,
        and those that upcasts lead from.

        Raises:
            ConfigurationError: upcasts of a type lead nowhere.
        """
        found = dict.fromkeys(self.decoders)
        for topic, version in self.decoders:
            kind = self.decoders[topic, version].type
            found.update(dict.fromkeys((topic, older) for older in upcast_versions(kind)))
        return tuple(found)

    def decode(self, incoming: Incoming, body: str | bytes | None) -> Any:
        """Decode a body into what the handler's annotation asks for.

        Raises:
            PayloadError: the body does not fit its type, or, where the message does not say its
                topic, none of the types.
            UnknownType: the topic or the version is none of the annotation's.
        """
        topic, version = incoming.topic, incoming.version
        if topic is None:
            return self._guess(body)
        if version is None:
            decoder = self.decoders.get((topic, self._versions.get(topic, 0)))
        else:
            decoder = self.decoders.get((topic, version))
        if decoder is None:
            return self._decode_other(topic, version, body)
        return decode(decoder, body)

    def _decode_other(self, topic: str, version: int | None, body: str | bytes | None) -> Any:
        """Decode what is none of the annotation's current types."""
        if version is not None and self.decoders:
            adopted = self._adopted.get((topic, version))
            if adopted is not None:
                return decode(adopted, body)
            for newer in self.versions(topic):
                decoder = self.decoders[topic, newer]
                if newer > version and version in upcast_versions(decoder.type):
                    return decode(decoder, raised(decoder.type, version, body))
        if self.fallback is None:
            raise UnknownType(topic, version)
        return decode(self.fallback, body)

    def versions(self, topic: str) -> list[int]:
        """Return the versions of a topic's types in the annotation, in ascending order."""
        return sorted(version for other, version in self.decoders if other == topic)

    def adopt(self, topic: str, version: int, known: int) -> None:
        """Let events of a version be decoded by the type of another from now on.

        Parameters:
            known: the version of a type of the annotation.
        """
        self._adopted[topic, version] = self.decoders[topic, known]

    def _guess(self, body: str | bytes | None) -> Any:
        candidates = list(self.decoders.values())
        if self.fallback is not None:
            candidates.append(self.fallback)
        faults = []
        for decoder in candidates:
            try:
                return decode(decoder, body)
            except PayloadError as error:
                faults.append(f"{_name(decoder.type)}: {error}")
        raise PayloadError(f"the message names no topic, and fits no type ({'; '.join(faults)})")


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

    def call(self, event: Any, context: Any = None, connection: Any = None) -> Any:
        """Call the function with those of the arguments it asks for.

        Returns:
            What the function returns: a coroutine, where ``is_async``.
        """
        arguments = {self.event_parameter: event}
        if self.context_parameter is not None:
            arguments[self.context_parameter] = context
        if self.connection_parameter is not None:
            arguments[self.connection_parameter] = connection
        if self.positional:
            first = [arguments.pop(name) for name in self.positional]
            return self.function(*first, **arguments)
        return self.function(**arguments)


def inspect_bodies(annotation: Any, where: str) -> Bodies:
    """Find out how bodies are decoded into a type, or into one of a union of event types.

    Event types are told apart by topic and version; at most one other type takes everything else.

    Parameters:
        annotation: the type, as a handler's annotation would have it.
        where: what errors begin with: ``handler on_order``.

    Raises:
        ConfigurationError: bodies cannot be decoded into that.
    """
    decoders, fallback = _decoders(annotation, where)
    return Bodies(
        decoders=types.MappingProxyType(decoders),
        fallback=fallback,
        _versions=types.MappingProxyType(_unsaid_versions(decoders)),
    )


def inspect_handler(
    function: Callable[..., Any],
    patterns: Sequence[str],
    context_type: type,
    batch_context_type: type | None = None,
    *,
    batch: bool = False,
) -> Handler:
    """Find out how a handler is to be called.

    A parameter annotated with the context's type or with ``psycopg.Connection`` gets that; of the
    others, the first required one gets the event. Its annotation, ``Any`` where there is none,
    decides how a body is decoded: event types by topic and version, and at most one other type
    for everything else. An annotation ``list[E]`` of event types asks for batches.

    Parameters:
        function: any callable: a function, a bound method, a ``functools.partial``.
        patterns: the subscription's, to find types that could never be delivered.
        context_type: the class of contexts.
        batch_context_type: the class of contexts of batches.
        batch: the subscription was given a batch size, so that any list is one of events.

    Raises:
        ConfigurationError: the function cannot be called so, or an annotation cannot be decoded.
    """
    name = _name(function)
    target = _target(function, name)
    hints = _hints(target, name)
    found = _parameters(function, name)
    context_types = tuple(kind for kind in (context_type, batch_context_type) if kind is not None)
    roles: dict[str, str] = {}
    rest: list[inspect.Parameter] = []
    for parameter in found:
        hint = _plain(hints.get(parameter.name, Any))
        role = _role(hint, context_types, name, parameter.name)
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
        wanted = context_types[0 if element is None else -1]
        if not issubclass(_class(hints[roles["context"]]), wanted):
            raise ConfigurationError(
                f"handler {name}: it takes {'one event' if element is None else 'batches'}, so "
                f"{roles['context']!r} is a {_name(wanted)}"
            )
    bodies = inspect_bodies(hint if element is None else element, f"handler {name}")
    for topic, version in bodies.decoders:
        if not any(matches(pattern, topic) for pattern in patterns):
            kind = _name(bodies.decoders[topic, version].type)
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
    target = _unwrapped(function)
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


def _name(thing: Any) -> str:
    thing = _unwrapped(thing)
    found = getattr(thing, "__qualname__", None)
    if found is None:
        # str() of an instance might show anything; of an annotation it shows its type.
        return str(thing) if typing.get_origin(thing) is not None else type(thing).__qualname__
    return str(found).replace("<locals>.", "")


def _unwrapped(function: Any) -> Any:
    while isinstance(function, functools.partial):
        function = function.func
    return function


def _target(function: Any, name: str) -> Any:
    """Return the function that is really called, whose annotations and kind count."""
    target = _unwrapped(function)
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
                f"resolved ({type(error).__name__}: {error}); import or define it at the top of "
                "the module, outside of TYPE_CHECKING"
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
    found = typing.get_origin(_plain(hint)) or _plain(hint)
    assert isinstance(found, type)
    return found


def _element(hint: Any, name: str, *, batch: bool) -> Any:
    """Return what a batch is a list of, or ``None`` where the handler takes single events."""
    plain = _plain(hint)
    if typing.get_origin(plain) is list:
        [element] = typing.get_args(plain)
        events = [isinstance(one, type) and issubclass(one, Event) for one in _members(element)]
        if batch or all(events):
            return element
    elif batch:
        raise ConfigurationError(
            f"handler {name}: it was given batch=…, so annotate its events as list[…]"
        )
    return None


def _role(hint: Any, context_types: tuple[type, ...], name: str, parameter: str) -> str | None:
    """Return "context" or "connection" for a parameter that asks for it."""
    for member in _members(hint):
        kind = typing.get_origin(member) or member
        if not isinstance(kind, type):
            continue
        if issubclass(kind, psycopg.AsyncConnection):
            raise ConfigurationError(
                f"handler {name}: {parameter!r} asks for a psycopg.AsyncConnection, which is not "
                "supported; a plain handler may take a psycopg.Connection"
            )
        special = issubclass(kind, (*context_types, psycopg.Connection))
        if special and member is not hint:
            raise ConfigurationError(
                f"handler {name}: {parameter!r} may be a {_name(kind)} or something else; "
                f"annotate it with {_name(kind)} alone"
            )
        if special:
            return "context" if issubclass(kind, context_types) else "connection"
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


def _plain(hint: Any) -> Any:
    """Return a type without its ``Annotated``, and what an alias stands for."""
    while True:
        if typing.get_origin(hint) is Annotated:
            hint = hint.__origin__
        elif type(hint).__name__ == "TypeAliasType":  # `type X = …`, Python 3.12
            hint = hint.__value__
        else:
            return hint


def _members(hint: Any) -> Iterator[Any]:
    """Yield the members of a union, or the type itself."""
    plain = _plain(hint)
    if typing.get_origin(plain) in (Union, types.UnionType):
        for member in typing.get_args(plain):
            yield from _members(member)
    elif isinstance(plain, type) and issubclass(plain, Event):
        yield plain
    else:
        # Constraints for msgspec (`Annotated[int, Meta(ge=1)]`) stay.
        yield hint


def _decoders(hint: Any, where: str) -> tuple[dict[TypeKey, Decoder], Decoder | None]:
    decoders: dict[TypeKey, Decoder] = {}
    fallback: Decoder | None = None
    for member in _members(hint):
        if member is type(None):
            raise ConfigurationError(
                f"{where}: an event is never None; leave it out of the annotation"
            )
        if isinstance(member, type) and issubclass(member, Event):
            key = _type_key(member, where)
            if key in decoders:
                raise ConfigurationError(
                    f"{where}: {_name(decoders[key].type)} and {_name(member)} have the "
                    f"same topic {key[0]!r} and version {key[1]}"
                )
            decoders[key] = _decoder(member, where)
        elif fallback is not None:
            raise ConfigurationError(
                f"{where}: {_name(fallback.type)} and {_name(member)} are both no Event, "
                "and nothing tells them apart; use one of them, or Any"
            )
        else:
            fallback = _decoder(member, where)
    return decoders, fallback


def _type_key(kind: type[Event], where: str) -> TypeKey:
    if kind.__event_topic__ is None:
        raise ConfigurationError(
            f"{where}: {_name(kind)} names no topic, so nothing is ever published as it; "
            "annotate the types that have one, or dict"
        )
    return kind.__event_topic__, kind.__event_version__


def _decoder(kind: Any, where: str) -> Decoder:
    try:
        info = msgspec.inspect.type_info(kind)
        decoder: Decoder = msgspec.json.Decoder(kind)
    except Exception as error:
        raise ConfigurationError(
            f"{where}: msgspec cannot decode {_name(kind)} ({type(error).__name__}: {error})"
        ) from error
    # msgspec takes a class it knows nothing of, and then refuses every body.
    custom = next((found for found in _infos(info) if _is_custom(found)), None)
    if custom is not None:
        raise ConfigurationError(
            f"{where}: msgspec cannot decode {_name(custom.cls)}"
            + ("" if custom is info else f", which is part of {_name(kind)}")
        )
    return decoder


def _is_custom(info: Any) -> bool:
    if not isinstance(info, msgspec.inspect.CustomType):
        return False
    # It does accept what is an instance of the class already: of `object`, say.
    return not any(issubclass(plain, info.cls) for plain in _JSON_TYPES)


def _infos(info: Any) -> Iterator[Any]:
    """Yield the descriptions of a type and of all it contains."""
    stack, seen = [info], set()
    while stack:
        found = stack.pop()
        if isinstance(found, tuple):
            stack.extend(found)
        elif (
            isinstance(found, (msgspec.inspect.Type, msgspec.inspect.Field))
            and id(found) not in seen  # types may contain themselves
        ):
            seen.add(id(found))
            yield found
            stack.extend(getattr(found, name) for name in found.__struct_fields__)


def _unsaid_versions(keys: Iterable[TypeKey]) -> dict[str, int]:
    """Return for each topic its only version, or 1 where it has several."""
    versions: dict[str, int] = {}
    for topic, version in keys:
        versions[topic] = 1 if topic in versions else version
    return versions

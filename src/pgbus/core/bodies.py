"""How bodies are decoded: what an annotation says of them, by topic and version."""

import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from pgbus.core.account import text_of
from pgbus.core.decoding import decode, read_kind
from pgbus.core.evolution import raised, upcast_versions
from pgbus.core.hints import members, name_of
from pgbus.errors import ConfigurationError, PayloadError, PgbusError
from pgbus.model.envelope import Incoming
from pgbus.model.event import Event

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

    @property
    def label(self) -> str:
        """What it is that nobody knows."""
        said = "without a version" if self.version is None else f"in version {self.version}"
        return f"{self.topic!r} {said}"


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

    @property
    def unversioned(self) -> tuple[str, ...]:
        """The topics of which a type of the annotation takes events without a version."""
        return tuple(
            topic for topic, one in self._versions.items() if (topic, one) in self.decoders
        )

    def decode_plain(self, headers: str | None, body: str | None) -> Any:
        """Decode a message that holds what nearly all do: an event of the annotation's own.

        Raises:
            BaseException: whatever comes of what is not so; :meth:`decode` finds out what it is.
        """
        return self.decoders[read_kind(headers or "")].decode(body or "")

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
                faults.append(f"{name_of(decoder.type)}: {error}")
        raise PayloadError(f"the message names no topic, and fits no type ({'; '.join(faults)})")


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


def _decoders(hint: Any, where: str) -> tuple[dict[TypeKey, Decoder], Decoder | None]:
    decoders: dict[TypeKey, Decoder] = {}
    fallback: Decoder | None = None
    for member in members(hint):
        if member is type(None):
            raise ConfigurationError(
                f"{where}: an event is never None; leave it out of the annotation"
            )
        if isinstance(member, type) and issubclass(member, Event):
            key = _type_key(member, where)
            if key in decoders:
                raise ConfigurationError(
                    f"{where}: {name_of(decoders[key].type)} and {name_of(member)} have the "
                    f"same topic {key[0]!r} and version {key[1]}"
                )
            decoders[key] = _decoder(member, where)
        elif _is_parametrised(member):
            raise ConfigurationError(
                f"{where}: {member} is not what is published under its topic; derive a type from "
                "it, with a topic of its own"
            )
        elif fallback is not None:
            raise ConfigurationError(
                f"{where}: {name_of(fallback.type)} and {name_of(member)} are both no Event, "
                "and nothing tells them apart; use one of them, or Any"
            )
        else:
            fallback = _decoder(member, where)
    return decoders, fallback


def _is_parametrised(hint: Any) -> bool:
    origin = typing.get_origin(hint)
    return isinstance(origin, type) and issubclass(origin, Event)


def _type_key(kind: type[Event], where: str) -> TypeKey:
    if kind.__event_topic__ is None:
        raise ConfigurationError(
            f"{where}: {name_of(kind)} names no topic, so nothing is ever published as it; "
            "annotate the types that have one, or dict"
        )
    return kind.__event_topic__, kind.__event_version__


def _decoder(kind: Any, where: str) -> Decoder:
    try:
        info = msgspec.inspect.type_info(kind)
        decoder: Decoder = msgspec.json.Decoder(kind)
    except Exception as error:
        raise ConfigurationError(
            f"{where}: msgspec cannot decode {name_of(kind)} ({type(error).__name__}: "
            f"{text_of(error)})"
        ) from error
    # msgspec takes a class it knows nothing of, and then refuses every body.
    custom = next((found for found in _infos(info) if _is_custom(found)), None)
    if custom is not None:
        raise ConfigurationError(
            f"{where}: msgspec cannot decode {name_of(custom.cls)}"
            + ("" if custom is info else f", which is part of {name_of(kind)}")
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

"""Events: frozen structs that know their topic, version and key."""

import enum
from collections.abc import Callable
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any, ClassVar, Final, dataclass_transform
from uuid import UUID

import msgspec

from pgbus.errors import ConfigurationError, InvalidTopic, PayloadError
from pgbus.model.names import check_topic

MAX_VERSION = 2**31 - 1
Step = Callable[[dict[str, Any]], dict[str, Any]]
"""Makes the body of one version that of another; see ``pgbus.upcast``."""
_KEYS: Final = (str, int, float, Decimal, UUID, date, time, timedelta)
"""What has one text that tells it from others."""


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(msgspec.field,))
class EventMeta(msgspec.StructMeta):
    """The metaclass that takes ``topic``, ``version`` and ``key`` as class keywords."""

    __event_topic__: str | None
    __event_version__: int
    __event_key__: str | None
    __event_upcasts__: dict[int, Step]
    __event_downcasts__: dict[int, Step]

    def __new__(
        mcls,
        name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        /,
        *,
        topic: str | None = None,
        version: int = 1,
        key: str | msgspec.UnsetType | None = msgspec.UNSET,
        **options: Any,
    ) -> "EventMeta":
        """Make the struct type and check what its keywords claim.

        Raises:
            ConfigurationError: the version is no positive integer, the key names no field, or an
                option is none, or would make the struct mutable or positional.
            InvalidTopic: the topic is no topic.
        """
        for option in ("frozen", "kw_only"):
            if options.setdefault(option, True) is not True:
                raise ConfigurationError(f"event {name}: an Event is always {option}")
        try:
            made = super().__new__(mcls, name, bases, namespace, **options)
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"event {name}: {error}") from error
        if topic is not None:
            if not isinstance(topic, str):
                raise InvalidTopic(f"event {name}: a topic is a str, not a {type(topic).__name__}")
            check_topic(topic)
        if isinstance(version, bool) or not isinstance(version, int):
            raise ConfigurationError(f"event {name}: version {version!r} is no integer")
        if not 1 <= version <= MAX_VERSION:
            raise ConfigurationError(f"event {name}: version {version} is not in 1 to 2^31 - 1")
        fields: tuple[str, ...] = made.__struct_fields__
        if isinstance(key, msgspec.UnsetType):
            # The name of a base's field is one of this type's too.
            key = getattr(made, "__event_key__", None)
        if key is not None and key not in fields:
            known = ", ".join(fields) or "none"
            raise ConfigurationError(
                f"event {name}: key {key!r} names no field (its fields: {known})"
            )
        made.__event_topic__ = topic
        made.__event_version__ = version
        made.__event_key__ = key
        made.__event_upcasts__ = {}
        made.__event_downcasts__ = {}
        return made


# Again, because mypy asks the bases before the metaclass, and would find msgspec.Struct's.
@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(msgspec.field,))
class Event(msgspec.Struct, metaclass=EventMeta, frozen=True, kw_only=True):
    """A base for event types, frozen and keyword-only.

    ::

        class OrderCreated(Event, topic="orders.created", version=1, key="order_id"):
            order_id: str
            total: Decimal

    Class keywords:
        topic: where instances are published when ``publish`` is given no topic. A type without
            one is abstract: a base for others.
        version: the schema's version, a positive integer, 1 by default.
        key: the field whose value orders the events (their FIFO group). Left out, it is the base
            class's; ``None``, here or in an instance, makes the event unordered.
    """

    __event_topic__: ClassVar[str | None]
    __event_version__: ClassVar[int]
    __event_key__: ClassVar[str | None]
    __event_upcasts__: ClassVar[dict[int, Step]]
    """By the version they start from; ``pgbus.upcast`` writes, handlers read."""
    __event_downcasts__: ClassVar[dict[int, Step]]
    """By the version they lead to; ``pgbus.downcast`` writes, the encoder reads."""


def key_of(event: Event) -> str | None:
    """Return the key of an event, as text, or ``None`` for one without a key.

    Raises:
        PayloadError: the field holds what is no key, such as a list.
    """
    field = type(event).__event_key__
    if field is None:
        return None
    value = getattr(event, field)
    if type(value) is str:  # as most are
        return value
    if isinstance(value, enum.Enum):
        value = value.value  # as in the body
    if value is None or value is msgspec.UNSET:
        return None
    if not isinstance(value, _KEYS):
        raise PayloadError(
            f"event {type(event).__name__}: its key {field!r} is a {type(value).__name__}; a key "
            "is text, a number, a UUID or a time"
        )
    return str(value)

"""What subscriptions and topics may be called.

pgmq lower-cases table names and cuts them at 63 bytes, so two names that differ only in case or
behind the 47th character would share one table. The rule here is narrower than pgmq's and leaves
room for ``_dlq`` and for the prefixes of the objects that pgbus makes for each queue.
"""

import re

from pgbus.errors import ConfigurationError, InvalidName, InvalidTopic

DEAD_LETTER_SUFFIX = "_dlq"
TAIL_PREFIX = "pgbus_tail_"
"""What the temporary queues of ``pgbus tail`` begin with: they are nobody's subscriptions."""
MAX_NAME = 43
MAX_TOPIC = 255
ROLES = "pgbus"
"""What the names of roles begin with, unless somebody wants it otherwise."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,42}")
_PREFIX = re.compile(r"[a-z][a-z0-9_]{0,7}")
_TOPIC = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")


def check_name(name: str) -> str:
    """Return ``name`` if a subscription can be called so.

    Raises:
        InvalidName: it is not ``[a-z][a-z0-9_]*``, longer than 43 characters, ends in ``_dlq``, or
            begins with ``pgbus_tail_``.
    """
    if _NAME.fullmatch(name) is None:
        raise InvalidName(
            f"{name!r} cannot name a subscription: use a lower-case letter, then lower-case "
            f"letters, digits or underscores, at most {MAX_NAME} characters"
        )
    if name.endswith(DEAD_LETTER_SUFFIX):
        raise InvalidName(
            f"{name!r} cannot name a subscription: the ending {DEAD_LETTER_SUFFIX!r} is kept for "
            "dead-letter queues"
        )
    if name.startswith(TAIL_PREFIX):
        raise InvalidName(
            f"{name!r} cannot name a subscription: the beginning {TAIL_PREFIX!r} is kept for the "
            "queues of 'pgbus tail'"
        )
    return name


def check_prefix(roles: bool | str) -> str | None:
    """Return what the names of roles are to begin with; ``None`` where ``roles`` wants none.

    Raises:
        ConfigurationError: it is not ``[a-z][a-z0-9_]*``, or longer than 8 characters, so that a
            subscription's name would not fit behind it.
    """
    if isinstance(roles, bool):
        return ROLES if roles else None
    if _PREFIX.fullmatch(roles) is None:
        raise ConfigurationError(
            f"the names of roles cannot begin with {roles!r}: use a lower-case letter, then "
            "lower-case letters, digits or underscores, at most 8 characters"
        )
    return roles


def check_topic(topic: str) -> str:
    """Return ``topic`` if an event can be published under it.

    Raises:
        InvalidTopic: it is empty, over 255 characters, has an empty word, a wildcard, or a
            character other than ``A-Z a-z 0-9 . _ -``.
    """
    if len(topic) > MAX_TOPIC:
        raise InvalidTopic(
            f"topic {topic[:40]!r}… has {len(topic)} characters; {MAX_TOPIC} are allowed"
        )
    if _TOPIC.fullmatch(topic) is None:
        raise InvalidTopic(f"{topic!r} is no topic: {_topic_fault(topic)}")
    return topic


def _topic_fault(topic: str) -> str:
    if not topic:
        return "it is empty"
    if "*" in topic or "#" in topic:
        return "wildcards belong in a subscription's pattern, not in a topic"
    if "" in topic.split("."):
        return "a word between dots is empty"
    return "use letters A-Z and a-z, digits, '_', '-' and dots between words"

"""Ids of events: UUIDv7 (RFC 9562 §5.7), which sort by the time they were made."""

from typing import Final
from uuid import UUID

RANDOM_BYTES: Final = 10
"""How many random bytes one id takes."""

_VERSION_AND_VARIANT: Final = (0x7 << 76) | (0x2 << 62)
_LOW: Final = (1 << 62) - 1
_FREE: Final = (1 << 74) - 1
_MAX_MS: Final = (1 << 48) - 1


def new_event_id(now_ms: int, random: bytes, after: UUID | None = None) -> UUID:
    """Make an id.

    Parameters:
        now_ms: milliseconds since 1970-01-01 UTC, less than 2^48.
        random: 10 random bytes.
        after: an id this function made before. The new one is greater, even where the clock
            stands still or was set back: the caller keeps the last id, under a lock if it has
            threads.

    Raises:
        ValueError: ``now_ms`` or the number of random bytes is out of range.
    """
    if not 0 <= now_ms <= _MAX_MS:
        raise ValueError(f"{now_ms} ms do not fit into 48 bits")
    if len(random) != RANDOM_BYTES:
        raise ValueError(f"{len(random)} random bytes, not {RANDOM_BYTES}")
    number = (now_ms << 74) | (int.from_bytes(random, "big") & _FREE)
    if after is not None:
        last = after.int
        last = ((last >> 80) << 74) | ((last >> 64 & 0xFFF) << 62) | (last & _LOW)
        if number <= last:
            # RFC 9562 §6.2, method 2: count on by a random step, so that ids stay hard to guess.
            number = last + 1 + int.from_bytes(random[:4], "big")
    stamp, free = number >> 74, number & _FREE
    return UUID(int=(stamp << 80) | ((free >> 62) << 64) | (free & _LOW) | _VERSION_AND_VARIANT)

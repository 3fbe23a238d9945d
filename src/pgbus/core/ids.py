"""Ids of events: UUIDv7 (RFC 9562 §5.7), which sort by the time they were made."""

import struct
from typing import Final
from uuid import UUID

RANDOM_BYTES: Final = 10
"""How many random bytes the first id of a call takes."""
STEP_BYTES: Final = 4
"""How many each of the others takes."""

_VERSION_AND_VARIANT: Final = (0x7 << 76) | (0x2 << 62)
_LOW: Final = (1 << 62) - 1
_FREE: Final = (1 << 74) - 1
_MAX_MS: Final = (1 << 48) - 1


def new_event_ids(now_ms: int, random: bytes, after: UUID | None = None) -> list[UUID]:
    """Make ids, each greater than the one before.

    Where the clock has not moved on, an id is the last one and a random step (RFC 9562 §6.2, method
    2), so that ids stay hard to guess.

    Parameters:
        now_ms: milliseconds since 1970-01-01 UTC, less than 2^48.
        random: 10 random bytes for the first, and 4 for each other.
        after: an id this function made before. The new ones are greater, even where the clock
            stands still or was set back: the caller keeps the last id, under a lock if it has
            threads.

    Raises:
        ValueError: ``now_ms`` or the number of random bytes is out of range.
    """
    if not 0 <= now_ms <= _MAX_MS:
        raise ValueError(f"{now_ms} ms do not fit into 48 bits")
    count, rest = divmod(len(random) - RANDOM_BYTES, STEP_BYTES)
    if rest or count < 0:
        raise ValueError(f"{len(random)} random bytes, not {RANDOM_BYTES} and {STEP_BYTES} an id")
    number = (now_ms << 74) | (int.from_bytes(random[:RANDOM_BYTES], "big") & _FREE)
    first = _id(number)
    if after is not None and first <= after:
        number = _number(after) + 1 + int.from_bytes(random[:STEP_BYTES], "big")
        first = _id(number)
    ids = [first]
    for step in struct.unpack_from(f"={count}I", random, RANDOM_BYTES):
        number += 1 + step
        ids.append(_id(number))
    return ids


def _number(made: UUID) -> int:
    """Return the bits of an id that count."""
    bits = made.int
    return ((bits >> 80) << 74) | ((bits >> 64 & 0xFFF) << 62) | (bits & _LOW)


def _id(number: int) -> UUID:
    """Return the id of which these are the bits that count."""
    return UUID(
        int=(number >> 74 << 80)
        | ((number & _FREE) >> 62 << 64)
        | (number & _LOW)
        | _VERSION_AND_VARIANT
    )

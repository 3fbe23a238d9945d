"""Topic patterns: AMQP 0-9-1's meaning, pgmq's bindings.

A pattern is words between dots. ``*`` stands for exactly one word and ``#`` for zero or more
(AMQP 0-9-1 §3.1.3.3). pgmq's ``#`` needs at least one word, so a pattern is bound once for each
subset of its ``#`` words left out: ``a.#.b`` as ``a.#.b`` and ``a.b``. Then ``pgmq.send_topic`` of
any client routes as a topic exchange does.
"""

import re
from itertools import combinations
from typing import Final

from pgbus.errors import InvalidPattern

MAX_PATTERN: Final = 255
"""How many characters a pattern may have, as in pgmq and AMQP."""
MAX_HASHES: Final = 6
"""How many ``#`` a pattern may have, runs of them counted once: each doubles the bindings."""

_CHARACTERS: Final = re.compile(r"[A-Za-z0-9_.*#-]+")


def check_pattern(text: str) -> str:
    """Return ``text`` if it is a pattern.

    Raises:
        InvalidPattern: it is no str, empty, over 255 characters, has an empty word, a wildcard
            beside other characters of a word, a character other than ``A-Z a-z 0-9 . _ - * #``, or
            more than 6 ``#`` words that do not follow each other.
    """
    if not isinstance(text, str):
        raise InvalidPattern(f"a pattern is a str, not a {type(text).__name__}")
    if len(text) > MAX_PATTERN:
        raise InvalidPattern(
            f"pattern {text[:40]!r}… has {len(text)} characters; {MAX_PATTERN} are allowed"
        )
    fault = _fault(text)
    if fault is not None:
        raise InvalidPattern(f"{text!r} is no pattern: {fault}")
    return text


def _fault(text: str) -> str | None:
    if not text:
        return "it is empty"
    if _CHARACTERS.fullmatch(text) is None:
        return "use letters A-Z and a-z, digits, '_', '-', dots between words, '*' and '#'"
    words = text.split(".")
    if "" in words:
        return "a word between dots is empty"
    for word in words:
        if len(word) > 1 and ("*" in word or "#" in word):
            return f"in {word!r} a wildcard is part of a word, but it stands for whole words"
    hashes = _normal(text).count("#")
    if hashes > MAX_HASHES:
        return f"it has {hashes} '#' words; {MAX_HASHES} are allowed"
    return None


def expand(pattern: str) -> tuple[str, ...]:
    """Return the pgmq bindings that together match what a pattern matches in AMQP 0-9-1.

    Returns:
        At least one, without duplicates, each a valid pattern; the fullest first, and always the
        same for the same pattern. ``#`` alone stays so, since no topic is empty.

    Raises:
        InvalidPattern: see :func:`check_pattern`.
    """
    check_pattern(pattern)
    words = _normal(pattern)
    places = [place for place, word in enumerate(words) if word == "#"]
    bindings: dict[str, None] = {}
    for left_out in range(len(places) + 1):
        for gone in combinations(places, left_out):
            kept = [word for place, word in enumerate(words) if place not in gone]
            if kept:
                bindings[".".join(kept)] = None
    return tuple(bindings)


def matches(pattern: str, topic: str) -> bool:
    """Tell whether a topic matches a pattern as in a topic exchange of AMQP 0-9-1.

    Both are taken to be valid; see :func:`check_pattern` and
    :func:`pgbus.model.names.check_topic`.
    """
    wanted, words = _normal(pattern), topic.split(".")
    at = word = 0
    # A mismatch lets the last `#` take one word more. Earlier ones need not be tried again, so
    # this is no exponential search, which a regular expression for it would be.
    hash_at, taken = -1, 0
    while word < len(words):
        if at < len(wanted) and wanted[at] == "#":
            hash_at, taken = at, word
            at += 1
        elif at < len(wanted) and wanted[at] in ("*", words[word]):
            at += 1
            word += 1
        elif hash_at >= 0:
            taken += 1
            at, word = hash_at + 1, taken
        else:
            return False
    return all(rest == "#" for rest in wanted[at:])


def _normal(pattern: str) -> list[str]:
    """Split a pattern into words, and make each run of ``#`` one: it means the same."""
    words: list[str] = []
    for word in pattern.split("."):
        if word != "#" or not words or words[-1] != "#":
            words.append(word)
    return words

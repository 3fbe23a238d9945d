"""Whether PostgreSQL's ``jsonb`` stores a JSON text, and whether it can be read back.

``jsonb`` refuses the character U+0000, lone surrogates, and numbers and nesting beyond its limits;
its errors, and the server's log, then quote the payload. It stores other texts that no client can
read: ``[1e131071]`` repeated nine thousand times takes 2.4 KB on disk and fails every statement
that touches the row. All of that is refused here, before anything is sent.

Ordinary texts pass a few searches: for single characters, short words, and what looks like a long
number. Only a text in which those find something is looked at exactly, so that an escaped
backslash, or a word inside of a string, is never refused.
"""

import dataclasses
import enum
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from itertools import accumulate
from typing import Any, Final

import msgspec

MAX_DEPTH: Final = 512
"""How deep arrays and objects may be nested. Readers with small stacks crash beyond about 900."""
MAX_DIGITS: Final = 1000
"""How many digits a number may have before, and how many behind its point."""
MAX_EXPANDED: Final = 16 * 2**20
"""How many characters the numbers of a text with large exponents may take when PostgreSQL writes
them out: it answers ``1e308`` with 309 digits."""

# Passes over its input without building objects: 0.2 µs for 350 bytes.
_GRAMMAR: Final = msgspec.json.Decoder(msgspec.Raw)

_STRING: Final = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_NUMBER: Final = re.compile(r"-?([0-9]+)(\.[0-9]+)?(?:[eE]([+-]?[0-9]+))?")
_ESCAPE: Final = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a pair
    r"|\\u(?P<lone>[dD][89a-fA-F][0-9a-fA-F]{2})"
    r"|\\u(?P<nul>0000)"
    r"|\\.",
    re.DOTALL,
)
# With zeros for all digits, and exponents in one form, one pattern finds all that begin alike, and
# fast. (str.translate is slow for text that is not ASCII; bytes.translate never is.)
_TO_ZEROS: Final = bytes.maketrans(b"123456789E", b"000000000e")
_SIGNS: Final = b"+-"
# Numbers of so many digits may be beyond a float, if only with an exponent of two digits.
_LONG_RUN: Final = b"0" * (sys.float_info.max_10_exp - 99)
# What follows tells an exponent from hexadecimal digits in an id.
_LONG_EXPONENT: Final = re.compile(rb"0e0000*(?:[\s,\]}]|\Z)")
_NOT_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in b"[]{}")
_STEP: Final = {91: 1, 123: 1, 93: -1, 125: -1}
# A float64 of MessagePack with all bits of its exponent set: NaN or an infinity.
_PACKED_NON_FINITE: Final = re.compile(rb"\xcb[\x7f\xff][\xf0-\xff]")
_PLAIN_KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")


def text_fault(text: str) -> str | None:
    """Say why a JSON text cannot be stored as ``jsonb`` and read back, or return ``None``.

    Returns:
        The fault as the end of a sentence ("is …", "has …"), without any part of the text.
    """
    try:
        _GRAMMAR.decode(text)
    except RecursionError:
        return f"is nested deeper than {MAX_DEPTH} levels"
    except msgspec.MsgspecError as error:
        # Of a lone surrogate, it only says that something else was expected behind it.
        return _escape_fault(text) or f"is not valid JSON: {_grammar_fault(error)}"
    # Looking for one character costs 30 ns, for a word 130 to 250 ns.
    if "\\" in text and "\\u" in text and (fault := _escape_fault(text)) is not None:
        return fault
    # 513 brackets open and close.
    if len(text) > 2 * MAX_DEPTH and (fault := _depth_fault(text)) is not None:
        return fault
    zeros = text.encode().translate(_TO_ZEROS, _SIGNS)
    if (
        _LONG_EXPONENT.search(zeros) is not None
        or _LONG_RUN in zeros
        # An exponent of two digits makes 100 characters of five.
        or (len(text) > MAX_EXPANDED // 20 and b"0e00" in zeros)
    ):
        return _number_fault(text)
    return None


def value_fault(payload: Any, text: str) -> str | None:
    """Say what msgspec wrote into ``text`` differently from what ``payload`` holds, or ``None``.

    It writes a NaN or an infinity as ``null`` without a word, and those of ``Decimal`` as words.
    """
    if "null" in text and not _floats_are_finite(payload):
        fault = locate(payload, _float_fault)
        if fault is not None:
            return fault
    if ("N" in text and "NaN" in text) or ("I" in text and "Infinity" in text):
        return locate(payload, _decimal_fault)
    return None


def string_fault(text: str) -> str | None:
    """Say why a string cannot be stored as text, or return ``None``."""
    if "\0" in text:
        return "holds the character U+0000, which PostgreSQL cannot store"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "holds a lone surrogate, which is no character"
    return None


def locate(payload: Any, fault_of: Callable[[Any], str | None]) -> str | None:
    """Find the first value or key in ``payload`` with a fault.

    Returns:
        ``.field[3].other`` and the fault; ``None`` where there is none. A path holds names of
        fields and those keys of dicts that look like names, never a value.
    """
    for path, leaf in _leaves(payload):
        fault = fault_of(leaf)
        if fault is not None:
            return f"at {path} {fault}" if path else fault
    return None


def _floats_are_finite(payload: Any) -> bool:
    # MessagePack has NaN and the infinities, and msgspec packs faster than Python walks. The
    # pattern may also occur in a string or an integer: only "not found" is certain.
    try:
        return _PACKED_NON_FINITE.search(msgspec.msgpack.encode(payload)) is None
    except Exception:  # what MessagePack lacks (integers over 64 bits)
        return False


def _float_fault(leaf: Any) -> str | None:
    if isinstance(leaf, float) and not math.isfinite(leaf):
        return "is NaN or infinite, which JSON does not have"
    return None


def _decimal_fault(leaf: Any) -> str | None:
    if isinstance(leaf, Decimal) and not leaf.is_finite():
        return "is NaN or infinite, which JSON does not have"
    return None


def _grammar_fault(error: msgspec.MsgspecError) -> str:
    # These messages name a byte's position, never its value.
    return str(error).removeprefix("JSON is malformed: ")


def _escape_fault(text: str) -> str | None:
    # A backslash occurs only in strings, and matching from the left takes each escape whole.
    for match in _ESCAPE.finditer(text):
        if match["nul"] is not None:
            return "holds the character U+0000, which PostgreSQL cannot store"
        if match["lone"] is not None:
            return "holds a lone surrogate, which is no character"
    return None


def _depth_fault(text: str) -> str | None:
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return None
    brackets = _STRING.sub("", text).encode().translate(None, _NOT_BRACKETS)
    if max(accumulate(map(_STEP.__getitem__, brackets)), default=0) > MAX_DEPTH:
        return f"is nested deeper than {MAX_DEPTH} levels"
    return None


def _number_fault(text: str) -> str | None:
    expanded = 0
    for match in _NUMBER.finditer(_STRING.sub("", text)):
        whole, fraction, exponent = match.groups()
        if len(whole) > MAX_DIGITS or (fraction is not None and len(fraction) > MAX_DIGITS + 1):
            return f"has a number of more than {MAX_DIGITS} digits"
        if exponent is not None and (
            # int() of a very long exponent would raise.
            len(exponent) > MAX_DIGITS or abs(int(exponent)) > MAX_DIGITS
        ):
            return f"has a number with an exponent beyond {MAX_DIGITS}"
        # Whoever reads it takes what is no plain integer for a float.
        if (exponent is not None or fraction is not None) and math.isinf(float(match[0])):
            return "has a number that no 64-bit float can hold"
        if exponent is not None:
            expanded += abs(int(exponent))
    if expanded > MAX_EXPANDED:
        return (
            f"has numbers whose exponents amount to {expanded} digits; {MAX_EXPANDED} are allowed"
        )
    return None


def _leaves(payload: Any) -> Iterator[tuple[str, Any]]:
    """Yield the path and value of everything in a payload that holds nothing else, keys too."""
    stack: list[tuple[str, Any]] = [("", payload)]
    seen: set[int] = set()  # a payload may contain itself
    while stack:
        path, value = stack.pop()
        if isinstance(value, enum.Enum):
            value = value.value
        parts = _parts(value)
        if parts is None:
            yield path, value
        elif id(value) not in seen:
            seen.add(id(value))
            stack.extend(reversed([(path + step, part) for step, part in parts]))


def _parts(value: Any) -> list[tuple[str, Any]] | None:
    """Return what a value holds, each with its step of a path; ``None`` for a scalar."""
    if isinstance(value, Mapping):
        parts = []
        for key, part in value.items():
            step = _step(key)
            parts += [(f"{step} (a key)", key), (step, part)]
        return parts
    if isinstance(value, (list, tuple, set, frozenset)):
        return [(f"[{index}]", part) for index, part in enumerate(value)]
    if isinstance(value, type):
        return None
    names: tuple[str, ...]
    if isinstance(value, msgspec.Struct):
        names = value.__struct_fields__
    elif dataclasses.is_dataclass(value):
        names = tuple(field.name for field in dataclasses.fields(value))
    elif hasattr(value, "__attrs_attrs__"):
        names = tuple(field.name for field in value.__attrs_attrs__)
    else:
        return None
    return [
        (f".{name}", part)
        for name in names
        if (part := getattr(value, name, msgspec.UNSET)) is not msgspec.UNSET
    ]


def _step(key: object) -> str:
    if isinstance(key, str) and _PLAIN_KEY.fullmatch(key) is not None:
        return f".{key}"
    return "[…]"

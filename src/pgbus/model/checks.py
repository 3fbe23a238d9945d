"""Checks of what users give, so that a wrong value is named where it is given."""

import math
from collections.abc import Collection
from typing import Any

from pgbus.errors import ConfigurationError


def check_number(what: str, value: Any, least: float, most: float = math.inf) -> None:
    """Raise unless a value is a finite number from ``least`` to ``most``.

    Raises:
        ConfigurationError: with ``what`` and the value.
    """
    fits = isinstance(value, int | float) and not isinstance(value, bool)
    if not (fits and least <= value <= most and math.isfinite(value)):
        raise ConfigurationError(f"{what}={value!r}: use a number {_range(least, most)}")


def check_whole(what: str, value: Any, least: int, most: float = math.inf) -> None:
    """Raise unless a value is an ``int`` from ``least`` to ``most``.

    Raises:
        ConfigurationError: with ``what`` and the value.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ConfigurationError(f"{what}={value!r}: use a whole number {_range(least, most)}")


def check_choice(what: str, value: Any, choices: Collection[Any]) -> None:
    """Raise unless a value is one of ``choices``.

    Raises:
        ConfigurationError: with ``what``, the value and the choices.
    """
    if not any(value is choice or value == choice for choice in choices):
        raise ConfigurationError(f"{what}={value!r}: use {' or '.join(map(repr, choices))}")


def check_instance(what: str, value: Any, kind: type) -> None:
    """Raise unless a value is an instance of ``kind``.

    Raises:
        ConfigurationError: with ``what`` and the value's type: the value may be a secret.
    """
    if not isinstance(value, kind):
        raise ConfigurationError(f"{what} is a {kind.__name__}, not a {type(value).__name__}")


def _range(least: float, most: float) -> str:
    return f"of at least {least:g}" if math.isinf(most) else f"from {least:g} to {most:.12g}"

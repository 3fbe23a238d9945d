"""What users choose: how to retry, what to do when retries are exhausted."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, Literal

from pgbus.errors import ConfigurationError
from pgbus.model.checks import check_choice, check_instance, check_number, check_whole

OnExhausted = Literal["skip", "park"]
OnUnroutable = Literal["ignore", "raise"]
Check = Literal["error", "warn", "off"]
CHECKS: Final = ("error", "warn", "off")
MAX_DELAY: Final = timedelta(days=36_525)
"""The longest delay of an event, and wait for its next attempt: a hundred years."""


class _Reject(enum.Enum):
    REJECT = "reject"

    def __repr__(self) -> str:
        return "REJECT"


REJECT: Final = _Reject.REJECT
"""In ``Retry(on={SomeError: REJECT})``: dead-letter at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How a subscription repeats events whose handler failed.

    Attempt n is followed by ``initial * factor ** (n - 1)`` seconds of waiting, at most
    ``maximum``, and with ``jitter`` by a random half to the whole of that.

    Parameters:
        max_attempts: how often the event is tried before it becomes a dead letter, at least 1.
        initial: seconds before the second attempt, from 0 to a hundred years.
        factor: what each further wait is multiplied by, at least 1.
        maximum: the longest wait in seconds, a hundred years at most.
        jitter: spread the waits, so that events that failed together do not return together.
        on: other policies for some exceptions; the most derived type that matches wins.

    Raises:
        ConfigurationError: a number is out of its range.
    """

    max_attempts: int = 5
    initial: float = 0.5
    factor: float = 2.0
    maximum: float = 60.0
    jitter: bool = True
    on: Mapping[type[BaseException], "Retry | _Reject"] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_whole("Retry: max_attempts", self.max_attempts, 1)
        _check_wait("Retry: initial", self.initial)
        check_number("Retry: factor", self.factor, 1)
        _check_wait("Retry: maximum", self.maximum)
        check_choice("Retry: jitter", self.jitter, (True, False))
        check_instance("Retry: on", self.on, Mapping)
        for kind, policy in dict[Any, Any](self.on).items():
            if not (isinstance(kind, type) and issubclass(kind, BaseException)):
                raise ConfigurationError(f"Retry: on: {kind!r} is no type of exceptions")
            if policy is not REJECT and not isinstance(policy, Retry):
                raise ConfigurationError(
                    f"Retry: on: for {kind.__name__}, use a Retry or REJECT, not {policy!r}"
                )


class Reject(Exception):
    """Raise it in a handler: the event becomes a dead letter at once."""


class RetryAfter(Exception):
    """Raise it in a handler: try again after ``seconds``, without counting a failure.

    Parameters:
        seconds: from 0 to a hundred years.

    Raises:
        ConfigurationError: ``seconds`` is out of its range; raised in a handler, it is a failure.
    """

    def __init__(self, seconds: float) -> None:
        _check_wait("RetryAfter: seconds", seconds)
        super().__init__(f"retry after {seconds:g} s")
        self.seconds = seconds


def _check_wait(what: str, seconds: float) -> None:
    # Of more, PostgreSQL can make no time: it would refuse to settle the event, again and again.
    check_number(what, seconds, 0, MAX_DELAY.total_seconds())

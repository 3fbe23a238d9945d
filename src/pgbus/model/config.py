"""What users choose: how to retry, what to do when retries are exhausted."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from pgbus.errors import ConfigurationError

OnExhausted = Literal["skip", "park"]
OnUnroutable = Literal["ignore", "raise"]


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
        initial: seconds before the second attempt, at least 0.
        factor: what each further wait is multiplied by, at least 1.
        maximum: the longest wait in seconds.
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
        if self.max_attempts < 1:
            raise ConfigurationError(f"Retry: max_attempts={self.max_attempts} is below 1")
        if not 0 <= self.initial < float("inf"):
            raise ConfigurationError(f"Retry: initial={self.initial} is no number of seconds")
        if not 1 <= self.factor < float("inf"):
            raise ConfigurationError(f"Retry: factor={self.factor} is below 1")
        if not 0 <= self.maximum < float("inf"):
            raise ConfigurationError(f"Retry: maximum={self.maximum} is no number of seconds")


class Reject(Exception):
    """Raise it in a handler: the event becomes a dead letter at once."""


class RetryAfter(Exception):
    """Raise it in a handler: try again after ``seconds``, without counting a failure."""

    def __init__(self, seconds: float) -> None:
        if not 0 <= seconds < float("inf"):
            raise ConfigurationError(f"RetryAfter: {seconds} is no number of seconds")
        super().__init__(f"retry after {seconds:g} s")
        self.seconds = seconds

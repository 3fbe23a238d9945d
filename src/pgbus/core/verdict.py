"""What is to become of an event that a handler was given: values, matched in one place."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Done:
    """The handler returned: acknowledge."""


@dataclass(frozen=True, slots=True)
class Again:
    """Try again later; the key waits behind it."""

    delay: float
    """Seconds until then."""
    counted: bool
    """Whether this was a failure, one of ``Retry.max_attempts``."""


@dataclass(frozen=True, slots=True)
class Bury:
    """Make it a dead letter."""


@dataclass(frozen=True, slots=True)
class GiveBack:
    """Return it as it was, uncounted, for another worker."""

    reason: str


Verdict = Done | Again | Bury | GiveBack

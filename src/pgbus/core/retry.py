"""What a handler's exception means."""

from pgbus.core.verdict import Again, Bury
from pgbus.errors import ConfigurationError
from pgbus.model.config import REJECT, Reject, Retry, RetryAfter


def decide(
    retry: Retry, error: BaseException, failures: int, deaths: int, random: float
) -> Again | Bury:
    """Decide what becomes of an event whose handler failed.

    Parameters:
        retry: the subscription's policy.
        error: what the handler raised.
        failures: how often it has failed with this event, this failure included.
        deaths: how often a worker died while it held the event.
        random: in [0, 1), for the jitter.

    Returns:
        :class:`~pgbus.core.verdict.Bury` for :class:`~pgbus.Reject`, for an exception that ``on``
        maps to ``REJECT``, and where failures and deaths have used up ``max_attempts``; otherwise
        :class:`~pgbus.core.verdict.Again`.
    """
    if isinstance(error, Reject):
        return Bury()
    wait = _wait_asked_for(error)
    if wait is not None:
        return Again(delay=wait, counted=False)
    policy = _policy(retry, error)
    if policy is None or failures + deaths >= policy.max_attempts:
        return Bury()
    return Again(delay=_delay(policy, failures + deaths, random), counted=True)


def _wait_asked_for(error: BaseException) -> float | None:
    """Return the seconds of a ``RetryAfter``; one of a subclass's making may have none."""
    if not isinstance(error, RetryAfter):
        return None
    try:
        return RetryAfter(error.seconds).seconds
    except (AttributeError, ConfigurationError):
        return None


def _policy(retry: Retry, error: BaseException) -> Retry | None:
    """Return the policy for an exception, ``None`` to reject it."""
    for kind in type(error).__mro__:
        if kind in retry.on:
            found = retry.on[kind]
            return None if found is REJECT else found
    return retry


def _delay(retry: Retry, attempt: int, random: float) -> float:
    """Return how long to wait after attempt ``attempt``, the first being 1, in seconds."""
    try:
        delay = min(retry.initial * float(retry.factor) ** (attempt - 1), retry.maximum)
    except OverflowError:
        delay = retry.maximum if retry.initial else 0.0
    return delay * (0.5 + random / 2) if retry.jitter else delay

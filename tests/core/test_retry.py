"""What a handler's exception means."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgbus.core.retry import decide
from pgbus.core.verdict import Again, Bury
from pgbus.errors import ConfigurationError
from pgbus.model.config import MAX_DELAY, REJECT, Reject, Retry, RetryAfter

STEADY = Retry(jitter=False, max_attempts=100)
LONGEST = MAX_DELAY.total_seconds()


@pytest.mark.parametrize(
    ("failures", "delay"), [(1, 0.5), (2, 1.0), (3, 2.0), (7, 32.0), (8, 60.0), (99, 60.0)]
)
def test_backoff(failures: int, delay: float) -> None:
    assert decide(STEADY, ValueError(), failures, 0, 0.9) == Again(delay, counted=True)


@pytest.mark.parametrize(
    ("failures", "deaths", "buried"),
    [(1, 0, False), (4, 0, False), (5, 0, True), (6, 0, True), (3, 1, False), (3, 2, True)],
)
def test_exhaustion(failures: int, deaths: int, buried: bool) -> None:
    verdict = decide(Retry(max_attempts=5), ValueError(), failures, deaths, 0.0)
    assert isinstance(verdict, Bury) is buried


def test_a_single_attempt() -> None:
    assert decide(Retry(max_attempts=1), ValueError(), 1, 0, 0.0) == Bury()


def test_deaths_lengthen_the_wait() -> None:
    assert decide(STEADY, ValueError(), 1, 1, 0.0) == Again(1.0, counted=True)


def test_verdicts_of_the_handler() -> None:
    assert decide(STEADY, Reject("no"), 1, 0, 0.0) == Bury()
    assert decide(STEADY, RetryAfter(3), 99, 99, 0.0) == Again(3, counted=False)
    assert decide(Retry(max_attempts=1), RetryAfter(3), 5, 0, 0.0) == Again(3, counted=False)


def test_jitter_takes_a_half_to_the_whole() -> None:
    retry = Retry(initial=8.0)
    assert decide(retry, ValueError(), 1, 0, 0.0) == Again(4.0, counted=True)
    assert decide(retry, ValueError(), 1, 0, 0.5) == Again(6.0, counted=True)


class TestOn:
    retry = Retry(
        jitter=False,
        on={
            Exception: Retry(initial=7.0, jitter=False),
            LookupError: REJECT,
            KeyError: Retry(initial=3.0, jitter=False, max_attempts=2),
        },
    )

    @pytest.mark.parametrize(
        ("error", "verdict"),
        [
            (ValueError(), Again(7.0, counted=True)),
            (LookupError(), Bury()),
            (IndexError(), Bury()),
            (KeyError(), Again(3.0, counted=True)),
            (KeyboardInterrupt(), Again(0.5, counted=True)),
        ],
    )
    def test_the_most_derived_type_wins(self, error: BaseException, verdict: object) -> None:
        assert decide(self.retry, error, 1, 0, 0.0) == verdict

    def test_its_own_limit_counts(self) -> None:
        assert decide(self.retry, KeyError(), 2, 0, 0.0) == Bury()


@given(
    st.builds(
        Retry,
        max_attempts=st.just(10**12),
        initial=st.floats(0, LONGEST),
        factor=st.floats(1, 1e308),
        maximum=st.floats(0, LONGEST),
        jitter=st.booleans(),
    ),
    st.integers(1, 10**9),
    st.floats(0, 1, exclude_max=True),
)
def test_no_policy_overflows(retry: Retry, failures: int, random: float) -> None:
    verdict = decide(retry, ValueError(), failures, 0, random)
    assert isinstance(verdict, Again)
    assert 0 <= verdict.delay <= retry.maximum


OUT_OF_RANGE = [-1, float("nan"), float("inf"), math.nextafter(LONGEST, math.inf), 1.7e18, 10**99]


@pytest.mark.parametrize("seconds", OUT_OF_RANGE)
def test_retry_after_takes_seconds(seconds: float) -> None:
    with pytest.raises(
        ConfigurationError, match=r"RetryAfter: .*use a number from 0 to 3155760000"
    ):
        RetryAfter(seconds)


@pytest.mark.parametrize("seconds", OUT_OF_RANGE)
@pytest.mark.parametrize("name", ["initial", "maximum"])
def test_no_wait_is_longer_than_a_delay(name: str, seconds: float) -> None:
    with pytest.raises(ConfigurationError, match=rf"Retry: {name}=.*from 0 to 3155760000"):
        Retry(**{name: seconds})  # type: ignore[arg-type]


def test_the_longest_waits() -> None:
    assert RetryAfter(LONGEST).seconds == LONGEST
    longest = Retry(initial=LONGEST, maximum=LONGEST, jitter=False)
    assert decide(longest, ValueError(), 1, 0, 0.0) == Again(LONGEST, counted=True)


class Later(RetryAfter):
    def __init__(self, *seconds: float) -> None:
        if seconds:
            [self.seconds] = seconds


def test_a_retry_after_that_does_not_say_when_is_a_failure_like_any_other() -> None:
    assert decide(STEADY, Later(), 1, 0, 0.9) == Again(0.5, counted=True)
    assert decide(STEADY, Later(2 * LONGEST), 1, 0, 0.9) == Again(0.5, counted=True)
    assert decide(STEADY, Later(3.0), 1, 0, 0.9) == Again(3.0, counted=False)

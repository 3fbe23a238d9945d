"""No figure is said to be reached at a rate that was not."""

from benchmarks.footprint import BURST_BATCHES, NOTIFICATIONS, PUBLISHED, notified, storm
from benchmarks.measure import Series


def figure_of(sent: float, published: float) -> tuple[str, str]:
    size = BURST_BATCHES[0]
    measured = [
        Series(shape=storm(size), contender=name, unit="/s", values=[value])
        for name, value in ((NOTIFICATIONS, sent), (PUBLISHED, published))
    ]
    [figure] = notified(measured)
    return figure.verdict, figure.basis


def test_few_notifications_at_the_rate_are_what_is_wanted() -> None:
    assert figure_of(0.6, 19_500.0) == ("reached", "19,500 events/s were published")


def test_few_notifications_at_a_lower_rate_say_which() -> None:
    verdict = "only at 12,345 events/s"
    assert figure_of(0.6, 12_345.0) == (verdict, "12,345 events/s were published")


def test_many_notifications_are_too_many_at_any_rate() -> None:
    assert figure_of(45.0, 12_345.0)[0] == "MISSED"

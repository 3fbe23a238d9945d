"""A cost is judged at the size where it is greatest."""

from benchmarks.growth import dearest
from benchmarks.measure import Series

SIZES = (1_000, 100_000, 1_000_000)


def series(shape: str, unit: str, *values: float) -> list[Series]:
    return [
        Series(shape=shape, contender=f"{size:,} waiting", unit=unit, values=[value])
        for size, value in zip(SIZES, values, strict=True)
    ]


def test_a_hump_in_the_middle_is_seen() -> None:
    measured = series("take: 1 key", "µs/event", 10, 20, 11)
    [figure] = dearest(measured, ["1 key"], SIZES)
    assert (figure.reached, figure.met) == (2.0, False)
    assert figure.basis == "100,000 waiting to 1,000 waiting"


def test_the_dearest_rate_is_the_lowest() -> None:
    measured = series("publish: 1 key", "events/s", 1000, 900, 500)
    [figure] = dearest(measured, ["1 key"], SIZES)
    assert (figure.reached, figure.basis) == (2.0, "1,000,000 waiting to 1,000 waiting")


def test_one_backlog_is_compared_with_none() -> None:
    assert not dearest(series("take: 1 key", "µs/event", 10, 20, 11), ["1 key"], SIZES[:1])

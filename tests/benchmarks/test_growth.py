"""A cost is judged at the size where it is greatest; a round of broken order counts for nothing."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from benchmarks.backlog import Backlog, Shape
from benchmarks.crowd import Crowd, Progress
from benchmarks.growth import BESIDE, beside, dearest
from benchmarks.measure import Series
from benchmarks.orders import order
from benchmarks.server import Server
from benchmarks.tally import Job, Ledger, Tally

from benchmarks import backlog

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


def test_a_cost_beside_barred_keys_is_compared_with_that_without() -> None:
    shape = "handle: beside 9 parked keys"
    measured = [
        Series(shape=shape, contender=contender, unit="events/s", values=[value])
        for contender, value in (("1,000 waiting", 600.0), (BESIDE, 300.0))
    ]
    [figure] = beside(measured, ["9 parked keys"], 1_000)
    assert (figure.what, figure.reached, figure.met) == (f"cost of {shape}", 2.0, False)
    assert figure.basis == "1,000 waiting, with those keys to without"


def pretend(monkeypatch: pytest.MonkeyPatch, *, misplaced: int) -> list[Ledger | None]:
    """Have no processes: ledgers tell of so many misplaced events; return those that were given."""
    given: list[Ledger | None] = []

    @contextmanager
    def crowd(name: str, dsn: str, job: Job, *, ledger: Ledger | None) -> Iterator[Crowd]:
        given.append(ledger)
        tally = Tally()
        tally.counts[1] = misplaced if ledger is not None else 0
        yield Crowd([], [tally])

    monkeypatch.setattr(backlog, "crowd", crowd)
    monkeypatch.setattr(backlog, "drain", lambda *_: Progress(10, 2.0))
    return given


def test_the_first_round_fails_where_order_was_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, misplaced=1)
    one = Backlog(Server(), Shape("a hot key", lambda n: n), 10, 5)
    with pytest.raises(RuntimeError, match="1 events twice or out of order in 'a hot key'"):
        one.handle()
    assert one.handle() == 5.0  # later ones are measured without the check


@pytest.mark.parametrize(
    ("shape", "key"),
    [
        (Shape("hot", lambda n: n, hot=5, hot_taken=True), backlog.HOT),
        (Shape("in flight", lambda n: n, in_flight=3), backlog.SPECIAL + 2),
        (Shape("retrying", lambda n: n, retrying=3), backlog.SPECIAL),
        (Shape("parked", lambda n: n, parked=3), backlog.SPECIAL),
    ],
    ids=lambda value: value.name if isinstance(value, Shape) else None,
)
def test_what_another_holds_must_not_be_handled(
    shape: Shape, key: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = pretend(monkeypatch, misplaced=0)
    Backlog(Server(), shape, 10, 5).handle()
    [ledger] = given
    assert ledger is not None
    assert ledger.enter(order(1, 1))
    assert not ledger.enter(order(1, key))

"""Who is compared on the real data; and that a round of broken order counts for nothing."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from benchmarks.crowd import Crowd, Progress
from benchmarks.measure import Case
from benchmarks.orders import orders
from benchmarks.peers import PGBUS
from benchmarks.run import Opened, Run
from benchmarks.server import Server
from benchmarks.tally import Job, Ledger, Tally

from benchmarks import handle
from pgbus import Event
from tests.benchmarks.still import Still


class Dry(Run):
    """A run without a server; its real data are a thousand orders."""

    @contextmanager
    def contender(self, name: str, kind: str) -> Iterator[Opened]:
        yield Opened(name, Still(name), "")

    def real_data(self, most: int) -> Iterator[tuple[str, str, list[Event]]]:
        yield "order", "changes", orders(1_000, 10)[:most]


def dry(events: int) -> Dry:
    return Dry(
        server=Server(),
        machine={},
        events=events,
        repeat=1,
        warm_up=False,
        peers=[],
        seconds=1.0,
        backlogs=[],
        tell=lambda text: None,
    )


def pretend(monkeypatch: pytest.MonkeyPatch, *, misplaced: int) -> None:
    """Have no processes: 5 events/s are handled, and a ledger tells of so many misplaced ones."""

    @contextmanager
    def crowd(
        name: str, dsn: str, job: Job, *, processes: int, ledger: Ledger | None
    ) -> Iterator[Crowd]:
        tally = Tally()
        tally.counts[1] = misplaced if ledger is not None else 0
        yield Crowd([], [tally])

    monkeypatch.setattr(handle, "crowd", crowd)
    monkeypatch.setattr(handle, "drain", lambda *_: Progress(10, 2.0))


def case(name: str) -> Case:
    one = Opened(name, Still(name), "")
    return handle.waiting("ordered, 1 key", one, Job("order"), orders(10, 1), 2)


def test_the_first_round_fails_where_order_was_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, misplaced=1)
    with pytest.raises(RuntimeError, match="1 events twice or out of order in 'ordered, 1 key'"):
        case(PGBUS).run()


def test_later_rounds_are_measured_without_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, misplaced=1)
    ours = case(PGBUS)
    with pytest.raises(RuntimeError):
        ours.run()
    assert ours.run() == 5.0


def test_the_first_of_a_million_keys_are_looked_at_for_duplicates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend(monkeypatch, misplaced=1)
    with ExitStack() as stack, pytest.raises(RuntimeError, match="1 events twice"):
        handle.million(dry(events=100), stack, 1).run()


def test_peers_promise_no_order(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, misplaced=1)
    assert case("pgmq").run() == 5.0


def test_peers_handle_the_real_data_too_and_slow_ones_less_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend(monkeypatch, misplaced=0)
    found = handle.real_data(dry(events=500), [PGBUS, "redis", "procrastinate"])
    assert [(one.shape, one.contender, one.note) for one in found] == [
        (shape, *contender)
        for shape in ("changes", "changes, two processes")
        for contender in (
            ("pgbus", ""),
            ("Redis Streams", ""),
            ("Procrastinate", "of 50 events"),
        )
    ]

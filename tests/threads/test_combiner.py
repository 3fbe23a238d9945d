"""Group commit: who is stored with whom, and who is told of which fault."""

import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import Any

import psycopg
import pytest

from pgbus import Bus, Event, PayloadError, StoreError
from pgbus.threads import combiner as combiner_module
from pgbus.threads.combiner import MOST_ITEMS, Combiner, Seats
from tests.waiting import eventually

ONE = Seats(1, 1, 1)
PATIENCE = 60.0
"""Seconds that nothing here takes."""


class Interrupted(BaseException):
    """As of a signal."""


class Store:
    """Stores numbers, a negative one not at all; the first call waits to be let on."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.entered = threading.Event()
        self.opened = threading.Event()
        self.error: Callable[[], Exception] | None = None

    def __call__(self, items: Sequence[int]) -> list[str]:
        self.batches.append(list(items))
        if len(self.batches) == 1:
            self.entered.set()
            assert self.opened.wait(PATIENCE)
        elif self.error is not None:
            raise self.error()
        if min(items, default=0) < 0:
            raise PayloadError(f"{min(items)}")
        return [str(item) for item in items]


def waits(combiner: "Combiner[Any, Any]", number: int) -> bool:
    return len(combiner._waiting) == number


def combined(store: Store, calls: Sequence[Sequence[int]]) -> list[Sequence[str] | Exception]:
    """Run calls while a first one takes the only seat, and return what each came to."""
    combiner = Combiner(store, seats=ONE)
    with ThreadPoolExecutor(len(calls) + 1) as pool:
        first = pool.submit(combiner.run, [0])
        assert store.entered.wait(PATIENCE)
        futures = []
        for call in calls:
            futures.append(pool.submit(combiner.run, call))
            if len(call) <= MOST_ITEMS:
                number = sum(len(one) <= MOST_ITEMS for one in calls[: len(futures)])
                eventually(partial(waits, combiner, number))
        store.opened.set()
        assert first.result(PATIENCE) == ["0"]
        errors = [future.exception(PATIENCE) for future in futures]
        assert combiner._busy == 0
        return [
            error if isinstance(error, Exception) else future.result()
            for error, future in zip(errors, futures, strict=True)
        ]


def test_what_comes_alone_is_stored_at_once() -> None:
    store = Store()
    store.opened.set()
    combiner = Combiner(store)
    assert combiner.run([1, 2]) == ["1", "2"]
    assert combiner.run([3]) == ["3"]
    assert store.batches == [[1, 2], [3]]


def test_what_waits_is_stored_together() -> None:
    store = Store()
    assert combined(store, [[1], [2, 3], [4]]) == [["1"], ["2", "3"], ["4"]]
    assert store.batches == [[0], [1, 2, 3, 4]]


def test_a_large_call_goes_alone_and_a_batch_has_an_end() -> None:
    store = Store()
    large = list(range(MOST_ITEMS + 1))
    half = list(range(MOST_ITEMS // 2 + 1))
    results = combined(store, [large, half, half])
    assert [len(result) for result in results if not isinstance(result, Exception)] == [
        len(large),
        len(half),
        len(half),
    ]
    assert sorted(map(len, store.batches)) == [1, len(half), len(half), len(large)]


def test_one_bad_call_fails_alone() -> None:
    store = Store()
    good, bad, also_good = combined(store, [[1], [-2], [3]])
    assert (good, also_good) == (["1"], ["3"])
    assert isinstance(bad, PayloadError)


def test_where_the_outcome_is_unknown_it_is_for_everyone() -> None:
    store = Store()
    store.error = lambda: StoreError("lost", outcome_unknown=True)
    errors = combined(store, [[1], [2], [3]])
    assert all(isinstance(error, StoreError) and error.outcome_unknown for error in errors)
    assert len(set(map(id, errors))) == 3
    assert len(store.batches) == 2


def refusal(cause: psycopg.Error) -> StoreError:
    error = StoreError("the database did not take it")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "cause",
    [
        psycopg.OperationalError("no route to it"),
        psycopg.errors.ConnectionException(),
        psycopg.errors.ReadOnlySqlTransaction(),
        psycopg.errors.TooManyConnections(),
        psycopg.errors.LockNotAvailable(),
        psycopg.errors.AdminShutdown(),
    ],
    ids=lambda cause: type(cause).__name__,
)
def test_where_the_database_is_away_everybody_hears_of_it_at_once(cause: psycopg.Error) -> None:
    store = Store()
    store.error = lambda: refusal(cause)
    errors = combined(store, [[1], [2], [3]])
    assert len(store.batches) == 2
    assert len(set(map(id, errors))) == 3
    for error in errors:
        assert isinstance(error, StoreError)
        assert (str(error), error.outcome_unknown) == ("the database did not take it", False)
        assert error.__cause__ is cause


def test_where_every_connection_is_busy_everybody_hears_of_it_at_once() -> None:
    store = Store()
    store.error = lambda: StoreError("all of them are busy")
    assert [str(error) for error in combined(store, [[1], [2]])] == ["all of them are busy"] * 2
    assert len(store.batches) == 2


@pytest.mark.parametrize(
    "cause", [psycopg.errors.NotNullViolation(), psycopg.errors.DeadlockDetected()]
)
def test_what_the_database_refuses_is_tried_one_by_one(cause: psycopg.Error) -> None:
    store = Store()
    store.error = lambda: refusal(cause)
    errors = combined(store, [[1], [2]])
    assert store.batches == [[0], [1, 2], [1], [2]]
    assert all(isinstance(error, StoreError) and error.__cause__ is cause for error in errors)


def two_behind_another(
    combiner: "Combiner[int, str]", store: Store
) -> tuple["Future[Sequence[str]]", "Future[Sequence[str]]"]:
    """Let two wait while a third is stored; return what came of their leader and its rider."""
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(combiner.run, [0])
        assert store.entered.wait(PATIENCE)
        others = []
        for n in (1, 2):
            others.append(pool.submit(combiner.run, [n]))
            eventually(partial(waits, combiner, n))
        store.opened.set()
        first.result(PATIENCE)
        for future in others:
            future.exception(PATIENCE)
    leader, rider = others
    return leader, rider


def test_an_interrupted_leader_leaves_nobody_waiting() -> None:
    store = Store()
    store.error = Interrupted  # type: ignore[assignment]
    combiner = Combiner(store, seats=ONE)
    leader, rider = two_behind_another(combiner, store)
    assert isinstance(leader.exception(), Interrupted)
    follower = rider.exception()
    assert isinstance(follower, StoreError)
    assert follower.outcome_unknown
    assert combiner._busy == 0


def test_a_leader_interrupted_after_it_has_stored_leaves_nobody_waiting() -> None:
    store = Store()

    class Lock:
        """Interrupts whoever waits for it next, once the leader has stored."""

        lock = threading.Lock()
        struck = False

        def __enter__(self) -> None:
            if len(store.batches) == 2 and not self.struck:
                self.struck = True
                raise Interrupted
            self.lock.acquire()

        def __exit__(self, *_: object) -> None:
            self.lock.release()

    combiner = Combiner(store, seats=ONE)
    combiner._lock = Lock()  # type: ignore[assignment]
    leader, rider = two_behind_another(combiner, store)
    assert isinstance(leader.exception(), Interrupted)
    assert rider.result() == ["2"]
    assert combiner._busy == 0


@pytest.mark.parametrize("handed_over", [False, True])
def test_who_is_interrupted_as_it_waits_keeps_nobody_else_waiting(*, handed_over: bool) -> None:
    """In the main thread, the only one that a signal interrupts."""
    store = Store()
    combiner = Combiner(store, seats=ONE)
    main = threading.get_ident()
    heard: list[int] = []

    def interrupt() -> None:
        """Again and again: a signal that comes as its thread falls asleep does not wake it."""
        while not heard:
            signal.pthread_kill(main, signal.SIGUSR1)
            time.sleep(0.01)

    class Gate:
        """That of the main thread's entry, through which the signal comes before it does."""

        def __init__(self, gate: threading.Lock) -> None:
            self.acquire = gate.acquire

        release = staticmethod(interrupt)

    def raise_it(number: int, frame: object) -> None:
        if not heard:
            heard.append(number)
            raise Interrupted

    def follow() -> Sequence[str]:
        eventually(partial(waits, combiner, 1))
        if handed_over:
            entry = combiner._waiting[0]
            entry.gate = Gate(entry.gate)  # type: ignore[assignment]
        else:
            interrupt()
            eventually(partial(waits, combiner, 0))
        behind = pool.submit(combiner.run, [2])
        eventually(partial(waits, combiner, 1 + handed_over))
        store.opened.set()
        return behind.result(PATIENCE)

    before = signal.signal(signal.SIGUSR1, raise_it)
    try:
        with ThreadPoolExecutor(3) as pool:
            first = pool.submit(combiner.run, [0])
            assert store.entered.wait(PATIENCE)
            following = pool.submit(follow)
            with pytest.raises(Interrupted):
                combiner.run([1])
            assert following.result(PATIENCE) == ["2"]
            assert first.result(PATIENCE) == ["0"]
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert store.batches == [[0], [2]]
    assert combiner._busy == 0


class Signal:
    """Interrupts this thread at one of the places of the combiner where a signal can.

    Python looks for signals as a function of its own begins, and as one of C has returned.
    """

    def __init__(self, place: int) -> None:
        self.place = place
        self.came = False

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        if frame.f_code.co_filename != combiner_module.__file__ or event not in (
            "call",
            "c_return",
        ):
            return
        if self.place == 0:
            self.came = True
        self.place -= 1
        if self.place == -1:
            raise Interrupted

    def __enter__(self) -> None:
        sys.setprofile(self)

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)


def interrupted_at(place: int, *, leads: bool) -> bool:
    """Interrupt a publish at a place, with others behind it; return whether there is such a place.

    Parameters:
        leads: it waits first, and may store for those behind it.
    """
    store = Store()
    combiner = Combiner(store, seats=ONE)
    over = threading.Event()

    def behind(number: int) -> Sequence[str]:
        eventually(lambda: over.is_set() or len(combiner._waiting) >= number - 1 + leads)
        return combiner.run([number])

    def open_behind() -> None:
        eventually(lambda: over.is_set() or len(combiner._waiting) == 2 + leads)
        store.opened.set()

    with ThreadPoolExecutor(4) as pool:
        if leads:
            first = pool.submit(combiner.run, [0])
            assert store.entered.wait(PATIENCE)
        others = [pool.submit(behind, number) for number in (1, 2)]
        opening = pool.submit(open_behind)
        interrupting = Signal(place)
        with suppress(Interrupted), interrupting:
            combiner.run([9])
        over.set()
        opening.result(PATIENCE)
        if leads:
            assert first.result(PATIENCE) == ["0"]
        for number, other in enumerate(others, 1):
            error = other.exception(PATIENCE)
            assert error is None or (isinstance(error, StoreError) and error.outcome_unknown)
            stored = [one for batch in store.batches for one in batch].count(number)
            assert stored == 1 or (error is not None and stored == 0)
    assert combiner._busy == 0
    return interrupting.came


@pytest.mark.parametrize("leads", [False, True])
def test_wherever_one_is_interrupted_nobody_is_left_waiting(*, leads: bool) -> None:
    places = 0
    while interrupted_at(places, leads=leads):
        places += 1
    assert places > 10


def test_there_are_as_many_commits_at_once_as_seats() -> None:
    together = threading.Barrier(3, timeout=10)

    def store(items: Sequence[int]) -> Sequence[int]:
        together.wait()
        return items

    combiner = Combiner(store, seats=Seats(3, 3, 3))
    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(combiner.run, [n]) for n in range(3)]
        assert [future.result(PATIENCE) for future in futures] == [[0], [1], [2]]
    assert combiner._busy == 0


class Clocks:
    """A store that sets the clocks: what is stored is the time, and how long Python was busy."""

    def __init__(self) -> None:
        self.now, self.busy = 0.0, 0.0
        self.together: threading.Barrier | None = None

    def __call__(self, items: Sequence[tuple[float, float]]) -> Sequence[object]:
        if self.together is not None:
            self.together.wait()
        self.now, self.busy = max(items)
        return items

    def combiner(self, seats: Seats) -> "Combiner[tuple[float, float], object]":
        return Combiner(self, seats=seats, clock=lambda: self.now, work=lambda: self.busy)


def test_while_python_is_busy_fewer_commits_are_under_way_at_once() -> None:
    combiner = Clocks().combiner(Seats(spare=2, own=1, shared=1))
    steps = [
        (1.0, 0.1, 2),
        (2.0, 0.8, 2),
        (3.0, 1.7, 1),
        (3.01, 1.7, 1),
        (4.0, 2.3, 1),
        (5.0, 2.7, 2),
    ]
    for now, busy, seats in steps:
        combiner.run([(now, busy)])
        assert combiner._seats == seats


@pytest.mark.parametrize(("threads", "seats"), [(2, 2), (3, 1)])
def test_more_threads_than_there_are_seats_share_fewer(threads: int, seats: int) -> None:
    clocks = Clocks()
    combiner = clocks.combiner(Seats(spare=1, own=2, shared=1))
    clocks.together = threading.Barrier(2, timeout=10)
    with ThreadPoolExecutor(threads) as pool:
        first = pool.submit(combiner.run, [(0.0, 0.0)])
        eventually(lambda: combiner._busy == 1)
        others = [pool.submit(combiner.run, [(0.0, 0.0)]) for _ in range(threads - 1)]
        eventually(partial(waits, combiner, threads - 1))
        clocks.together.wait()
        clocks.together.wait()  # whoever comes next stores for all that waited
        for future in (first, *others):
            future.result(PATIENCE)
        clocks.together = None
        for now, busy in ((1.0, 0.9), (2.0, 1.8)):
            expected = seats if now == 1.0 else 2
            combiner.run([(now, busy)])
            assert combiner._seats == expected


def test_those_whom_others_store_are_counted_too() -> None:
    clocks = Clocks()
    combiner = clocks.combiner(Seats(spare=1, own=2, shared=1))
    clocks.together = threading.Barrier(2, timeout=10)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(combiner.run, [(0.0, 0.0)])
        eventually(lambda: combiner._busy == 1)
        others = [pool.submit(combiner.run, [(0.0, 0.0)]) for _ in range(2)]
        eventually(partial(waits, combiner, 2))
        eventually(lambda: combiner._crowd == 3)
        combiner._crowd = 0  # as at the end of a window
        clocks.together.wait()
        first.result(PATIENCE)  # one of the others stores for both, until the barrier lets it
        late = pool.submit(combiner.run, [(0.0, 0.0)])
        eventually(partial(waits, combiner, 1))
        eventually(lambda: combiner._crowd == 3)
        clocks.together.wait()
        clocks.together.wait()
        for future in (*others, late):
            future.result(PATIENCE)
    assert combiner._riding == 0


class Created(Event, topic="orders.created", key="order"):
    order: str
    n: int = 0


@pytest.mark.parametrize("on_unroutable", ["ignore", "raise"])
def test_threads_keep_their_own_order_and_receipts(
    make_bus: Callable[..., Bus], on_unroutable: str
) -> None:
    bus = make_bus(on_unroutable=on_unroutable)
    seen: dict[str, list[int]] = {}

    @bus.subscribe("orders.*", name="billing")
    def on_order(event: Created) -> None:
        seen.setdefault(event.order, []).append(event.n)

    bus.declare()

    def publish(name: str) -> None:
        for n in range(100):
            receipt = bus.publish(Created(order=name, n=n))
            assert receipt.queues == 1

    with ThreadPoolExecutor(8) as pool, bus.running():
        list(pool.map(publish, [f"o{n}" for n in range(8)]))
        assert bus.wait_idle(20)
    assert seen == {f"o{n}": list(range(100)) for n in range(8)}

"""How much is taken at once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgbus.core.demand import MOST_BYTES, MOST_EVENTS, MOST_QUANTITY, Demand


def learned(
    concurrency: int,
    *,
    seconds: float,
    size: int = 100,
    ordered: bool = True,
    batch: int | None = None,
) -> Demand:
    """A subscription's demand after many calls of ``seconds`` on events of ``size`` bytes."""
    demand = Demand(concurrency, ordered=ordered, batch=batch)
    for _ in range(200):
        demand.observe(seconds)
        demand.learn(10, 50, 50 * size)
    return demand


def test_slow_handlers_take_what_their_threads_can_begin() -> None:
    demand = learned(4, seconds=1.0)
    assert demand.target == 4
    wish = demand.wish(0)
    assert wish is not None
    assert (wish.lanes, wish.quantity) == (4, 1)
    assert demand.wish(4) is None
    assert demand.wish(3) is not None


def test_fast_handlers_take_a_fraction_of_a_second_in_advance() -> None:
    assert 60 <= learned(4, seconds=1 / 64).target <= 64
    assert learned(4, seconds=1e-5).target == MOST_EVENTS


def test_batches_take_as_many_events_of_a_key_as_there_are() -> None:
    wish = learned(8, seconds=1e-6, batch=100).wish(MOST_EVENTS - 1000)
    assert wish is not None
    assert wish.quantity > 5  # a key has five events


def test_slow_batches_hold_a_call_for_each_thread_and_a_fraction_of_a_second() -> None:
    demand = learned(8, seconds=0.01, batch=100)  # a second a call
    assert demand.target == 8 * 100 + 2 * 100
    assert learned(1, seconds=0.01, batch=100).target == 100 + 100


@pytest.mark.parametrize("seconds", [1e-5, 1e-3, 0.01, 0.04])
@pytest.mark.parametrize("threads", [1, 2, 8])
def test_batches_are_full_where_much_waits(threads: int, seconds: float) -> None:
    """Whoever is free takes what is there, before its last call is settled and more is fetched."""
    batch = 100
    demand = learned(threads, seconds=seconds, batch=batch)
    waiting, calls = 0, [0] * threads
    for number in range(100):
        while (wish := demand.wish(waiting + sum(calls))) is not None:
            waiting += wish.lanes * wish.quantity
        begun = min(batch, waiting)
        assert begun == batch, number
        waiting -= begun
        calls = [*calls[1:], begun]


def test_slow_batches_are_filled_with_many_keys() -> None:
    wish = learned(4, seconds=0.1, batch=100).wish(0)
    assert wish is not None
    assert (wish.lanes, wish.quantity) == (400, 1)


@pytest.mark.parametrize("seconds", [1e-6, 0.001, 0.1])
@pytest.mark.parametrize("batch", [1, 10, 64, 100, 500])
def test_batches_are_filled_with_one_key_where_there_are_no_others(
    batch: int, seconds: float
) -> None:
    assert settled(Demand(4, ordered=True, batch=batch), seconds, lanes=1) == batch


def test_of_a_single_key_more_is_taken_at_once_than_of_many() -> None:
    assert settled(Demand(8, ordered=True), 1e-5, lanes=1000) == MOST_QUANTITY
    for lanes in (1, 3):
        assert 3 * MOST_QUANTITY < settled(Demand(8, ordered=True), 1e-5, lanes=lanes) <= 256
    # Of many threads, each still has a key where there are some.
    assert settled(Demand(32, ordered=True), 1e-5, lanes=3) == MOST_QUANTITY
    # What a call takes long for is not taken from other processes.
    assert settled(Demand(8, ordered=True), 0.1, lanes=1) == 1


def settled(demand: Demand, seconds: float, *, lanes: int) -> int:
    """How many events of a lane are taken in the end where ``lanes`` have any number of them."""
    quantity = 0
    for _ in range(100):
        demand.observe(seconds)
        wish = demand.wish(0)
        assert wish is not None
        quantity = wish.quantity
        found = min(lanes, wish.lanes)
        events = found * quantity
        demand.learn(found, events, events, all_seen=found < wish.lanes)
    return quantity


def test_a_new_subscription_of_batches_takes_several_events_of_several_keys() -> None:
    wish = Demand(1, ordered=True, batch=10).wish(0)
    assert wish is not None
    assert wish.lanes > 1
    assert wish.quantity > 1


def test_large_events_are_bounded_by_their_bytes() -> None:
    assert learned(4, seconds=1e-5, size=2**20).target == MOST_BYTES // 2**20
    assert learned(40, seconds=1e-5, size=2**20).target == 40


def test_a_new_subscription_begins_with_little() -> None:
    assert Demand(8, ordered=True).target < 100


@pytest.mark.parametrize("ordered", [True, False])
@given(
    concurrency=st.integers(1, 1000),
    seconds=st.floats(0, 100),
    size=st.integers(0, 2**25),
    in_hand=st.integers(0, 5000),
    batch=st.sampled_from([1, 2, 100]),
)
def test_a_wish_never_goes_beyond_the_target(
    *, ordered: bool, concurrency: int, seconds: float, size: int, in_hand: int, batch: int
) -> None:
    demand = learned(concurrency, seconds=seconds, size=size, ordered=ordered, batch=batch)
    wish = demand.wish(in_hand)
    assert (wish is None) == (in_hand > demand.low)
    if wish is None:
        assert in_hand >= concurrency * batch
    else:
        assert wish.lanes >= 1
        assert wish.quantity == 1 or ordered
        assert in_hand + wish.lanes * wish.quantity <= demand.target

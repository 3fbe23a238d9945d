"""Where a subscription looks for free lanes."""

import random
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgbus.core import newest, walk
from pgbus.core.newest import FIRST_EVENT
from pgbus.core.rounds import Rounds
from pgbus.core.walk import (
    LEAST_EVENTS,
    MOST_EVADED,
    MOST_VISITS,
    RETURN,
    Step,
    Walk,
)
from pgbus.model.delivery import FIRST_LANE


class Waiting:
    """Events that wait, as a take finds them: what it wins stays leased."""

    def __init__(self, lanes: Iterable[int], leased: Iterable[int] = ()) -> None:
        self.events = dict(enumerate(lanes, start=1))
        self.leased = set(leased)
        self.visits = 0

    def take(self, step: Step, lanes: int) -> tuple[int, int | None]:
        """Lease up to so many lanes; return how many, and where to go on."""
        look = self._by_arrival if step.by_arrival else self._by_lanes
        won, resume = look(step, lanes)
        self.leased |= won
        return len(won), resume

    def teach(self, way: Walk, step: Step, lanes: int) -> bool:
        """Take, and return what the walk makes of it."""
        live = self._live(step) if step.newest else None
        found, resume = self.take(step, lanes)
        return way.learn(step, lanes, found, resume, live=live)

    def _live(self, step: Step) -> int | None:
        seen = [one for one in self.events if one >= step.start][: step.visits]
        free = (one for one in seen if self.events[one] not in self.leased)
        return next(free, seen[-1] + 1 if seen else None)

    def _by_lanes(self, step: Step, lanes: int) -> tuple[set[int], int | None]:
        won: set[int] = set()
        ahead = sorted({lane for lane in self.events.values() if lane >= step.start})
        for visited, lane in enumerate(ahead, start=1):
            self.visits += 1
            won |= {lane} - self.leased
            if visited == step.visits or len(won) == lanes:
                return won, lane + 1
        return won, None

    def _by_arrival(self, step: Step, lanes: int) -> tuple[set[int], int | None]:
        won: set[int] = set()
        ahead = [(one, lane) for one, lane in self.events.items() if one >= step.start]
        seen = ahead[: step.visits]
        self.visits += len(seen)
        for number, lane in seen:
            if lane not in self.leased | won:
                if len(won) == lanes:
                    return won, number
                won.add(lane)
        return won, seen[-1][0] + 1 if len(seen) == step.visits else None

    def work(self, way: Walk, lanes: int, *, takes: int = 1) -> list[Step]:
        """Take so many times, and return the steps."""
        steps: list[Step] = []
        for _ in range(takes):
            steps.append(way.next(lanes))
            self.teach(way, steps[-1], lanes)
        return steps

    def come(self, *lanes: int) -> None:
        """Let new events come."""
        self.events |= dict(enumerate(lanes, start=len(self.events) + 1))


@pytest.fixture(autouse=True)
def _straight(monkeypatch: pytest.MonkeyPatch) -> None:
    """No strolls, but for the test of them."""
    monkeypatch.setattr(walk, "STROLL", 1 << 60)


@given(
    lanes=st.lists(st.integers(-30, 30), max_size=300),
    leased=st.sets(st.integers(-30, 30)),
    wishes=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    contested=st.lists(st.booleans(), min_size=20, max_size=20),
    everywhere=st.lists(st.booleans(), min_size=20, max_size=20),
    visits=st.sampled_from([10, MOST_VISITS]),
    chance=st.randoms(use_true_random=False),
)
def test_whatever_waits_is_found_before_the_walk_says_that_nothing_is_free(
    lanes: list[int],
    leased: set[int],
    wishes: list[int],
    contested: list[bool],
    everywhere: list[bool],
    visits: int,
    chance: random.Random,
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(walk, "MOST_VISITS", visits)  # of few, 61 lanes are a crowd
        patch.setattr(newest, "RECENT", visits // 2)
        patch.setattr(walk, "CHANCE", chance)
        waiting, way, rounds = Waiting(lanes, leased), Walk(), Rounds()
        for number in range(1000):
            wished = wishes[number % len(wishes)]
            everywhere_now = number >= len(everywhere) or everywhere[number]
            step = way.next(wished, everywhere=everywhere_now)
            if not step.by_arrival:
                rounds.step(number, first=step.goes_through)
            found, resume = waiting.take(step, wished)
            evades = number < len(contested) and contested[number]
            idle = way.learn(step, wished, found, resume, contested=evades)
            if idle and everywhere_now and not rounds.pressed:
                break
            # What is let go of behind the walk must be found as well.
            if number < 20 and waiting.leased:
                waiting.leased.remove(min(waiting.leased))
                rounds.press()
        else:
            pytest.fail("the walk does not end")
    assert set(lanes) <= waiting.leased


def test_little_is_looked_for_by_lanes() -> None:
    waiting, way = Waiting(range(50)), Walk()
    assert {step.by_arrival for step in waiting.work(way, 100, takes=5)} == {False}


def test_much_is_taken_by_arrival_from_the_oldest_event_on() -> None:
    waiting, way = Waiting(range(5000, 0, -1)), Walk()
    first, *others = waiting.work(way, 100, takes=11)
    assert (first.by_arrival, first.start) == (False, FIRST_LANE)
    assert {step.by_arrival for step in others} == {True}
    assert others[0].start == FIRST_EVENT
    assert [step.start for step in others[1:]] == list(range(101, 1000, 100))
    assert waiting.visits == 1100


def test_few_lanes_with_many_events_are_not_looked_for_by_arrival() -> None:
    waiting, way = Waiting([7] * 100_000), Walk()
    steps = waiting.work(way, 60, takes=40)
    assert [step.by_arrival for step in steps] == [False] * 40
    assert waiting.visits == 40


@pytest.mark.parametrize("leased", [False, True])
def test_a_long_run_of_one_lane_is_leapt_over(*, leased: bool) -> None:
    waiting = Waiting([0] * 20_000 + list(range(60_000, 0, -1)), {0} if leased else ())
    way = Walk()
    steps = waiting.work(way, 100, takes=30)
    by_arrival = [step for step in steps if step.by_arrival]
    assert by_arrival[-1].start > 20_000
    assert len(by_arrival) >= 25
    assert len(waiting.leased) > 2_000
    assert waiting.visits < 4_000


def test_where_several_events_of_a_lane_come_together_more_of_them_are_looked_at() -> None:
    waiting, way = Waiting([n // 3 for n in range(30_000)]), Walk()
    steps = waiting.work(way, 100, takes=30)
    assert all(step.by_arrival for step in steps[1:])
    assert 250 < steps[-1].visits < 400
    assert len(waiting.leased) > 2_500


def test_few_lanes_are_looked_for_among_some_events_and_many_among_so_many_at_most() -> None:
    waiting, way = Waiting(range(50_000)), Walk()
    waiting.work(way, 1)
    assert way.next(1).visits == LEAST_EVENTS
    assert way.next(10_000).visits == MOST_VISITS


def test_the_walk_returns_to_what_was_not_free_as_it_came_by() -> None:
    waiting, way = Waiting(range(100_000, 0, -1), {100_000}), Walk()
    steps = waiting.work(way, 100, takes=RETURN)
    assert {step.by_arrival for step in steps[1:]} == {True}
    waiting.leased.remove(100_000)
    waiting.work(way, 100, takes=2)
    assert 100_000 in waiting.leased


@pytest.mark.parametrize("by_arrival", [False, True])
def test_a_process_evades_another_that_goes_the_same_way(*, by_arrival: bool) -> None:
    starts = set()
    for _ in range(5):
        random.seed(1)  # an application's, the same in each of its processes
        way = Walk()
        if by_arrival:
            Waiting(range(1000)).work(way, 100)
        step = way.next(100)
        assert step.by_arrival == by_arrival
        assert not way.learn(step, 100, 3, 150, contested=True)
        after = way.next(100)
        assert after.by_arrival == by_arrival
        assert not by_arrival or 150 < after.start <= 150 + MOST_EVADED
        starts.add(after.start)
    assert len(starts) > 1
    # At the end there is nothing to evade.
    assert not way.learn(after, 100, 0, None, contested=True)
    while (last := way.next(100)).start != FIRST_LANE:
        assert not last.by_arrival
        assert not way.learn(last, 100, 0, None)
    assert way.learn(last, 100, 0, None, contested=True)


def test_a_round_of_several_takes_that_finds_nothing_is_a_whole_one() -> None:
    waiting, way = a_crowd(2 * MOST_VISITS + 100)
    steps = [way.next(100)]
    while not waiting.teach(way, steps[-1], 100):
        steps.append(way.next(100))
    assert [step.start for step in steps if not step.newest] == [
        FIRST_LANE,
        MOST_VISITS,
        2 * MOST_VISITS,
    ]


def a_crowd(lanes: int) -> tuple[Waiting, Walk]:
    """So many lanes of which none can be had, and a walk that has not been there."""
    return Waiting(range(lanes), range(lanes)), Walk()


@pytest.fixture
def crowd(monkeypatch: pytest.MonkeyPatch) -> tuple[Waiting, Walk]:
    """The same in small, and a walk that has gone round it and seen the newest events."""
    monkeypatch.setattr(walk, "MOST_VISITS", 50)
    monkeypatch.setattr(newest, "RECENT", 10)
    waiting, way = a_crowd(500)
    gone_round(waiting, way)
    while not waiting.teach(way, way.next(100, everywhere=False), 100):
        pass
    return waiting, way


def gone_round(waiting: Waiting, way: Walk) -> None:
    while not waiting.teach(way, way.next(100), 100):
        pass


def test_beside_a_crowd_new_events_are_found_without_going_round_it(
    crowd: tuple[Waiting, Walk],
) -> None:
    waiting, way = crowd
    for lane in range(-20, 0):
        waiting.come(lane)
        waiting.visits = 0
        assert waiting.teach(way, way.next(100, everywhere=False), 100)
        assert lane in waiting.leased
        assert waiting.visits <= 12


def test_beside_a_crowd_what_was_not_free_as_it_came_is_looked_at_again(
    crowd: tuple[Waiting, Walk],
) -> None:
    waiting, way = crowd
    waiting.leased.add(-5)
    for lane in range(-9, 0):
        waiting.come(lane)
        waiting.teach(way, way.next(100, everywhere=False), 100)
    waiting.leased.remove(-5)
    assert waiting.teach(way, way.next(100, everywhere=False), 100)
    assert -5 in waiting.leased


def test_beside_a_crowd_new_events_do_not_keep_the_walk_from_the_others(
    crowd: tuple[Waiting, Walk],
) -> None:
    waiting, way = crowd
    waiting.leased.remove(400)
    for number in range(100):
        waiting.come(*range(1000 + 20 * number, 1020 + 20 * number))
        waiting.teach(way, way.next(10), 10)
    assert 400 in waiting.leased
    assert len(waiting.leased) > 500 + 100 * 10 // 2


def test_a_crowd_that_has_gone_is_forgotten(crowd: tuple[Waiting, Walk]) -> None:
    waiting, way = crowd
    waiting.events = {1: 1}
    gone_round(waiting, way)
    assert not way.next(100, everywhere=False).newest


def test_now_and_then_a_take_begins_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "STROLL", 4)
    waiting, way = Waiting(range(50_000, 0, -1)), Walk()
    steps = waiting.work(way, 100, takes=12)
    assert [step.stroll for step in steps] == ([False] * 3 + [True]) * 3
    assert not any(step.by_arrival for step in steps if step.stroll)
    straight = [step.start for step in steps if not step.stroll]
    assert straight[2:] == [101 + 100 * n for n in range(len(straight) - 2)]


@pytest.mark.parametrize("behind", [1_000, 10_000, 50_000])
def test_what_lies_before_the_end_is_found_though_a_leap_goes_over_it(behind: int) -> None:
    """Else each good take by lanes would be followed by the same leaps in vain."""
    hot = 100_000
    waiting = Waiting([0] * hot + list(range(behind, 0, -1)), {0})
    way = Walk()
    steps = waiting.work(way, 10, takes=90)
    assert len(waiting.leased) > 10 * 90 // 2
    assert sum(step.by_arrival and step.start > hot for step in steps) > 90 // 2


def test_where_arrival_never_helps_it_is_tried_more_and_more_seldom() -> None:
    # One free event among twenty, all the way.
    waiting = Waiting([n // 20 if n % 20 == 0 else 0 for n in range(1, 100_000)], {0})
    steps = waiting.work(Walk(), 4, takes=800)
    assert sum(not step.by_arrival for step in steps) > 500

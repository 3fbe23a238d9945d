"""When all lanes are looked at again, after none was free."""

from pgbus.core.rounds import CALM, MOST_CALM, PRESSED, Rounds


def gone_round(takes: int, *, since: float, until: float) -> Rounds:
    rounds = Rounds()
    for number in range(takes):
        assert rounds.due_at() <= since
        rounds.step(since, first=number == 0)
    rounds.over(until)
    return rounds


def test_a_new_one_is_due() -> None:
    assert Rounds().due_at() < 0


def test_one_under_way_is_not_interrupted() -> None:
    rounds = Rounds()
    rounds.step(100.0, first=True)
    assert rounds.due_at() < 100.0
    rounds.press()
    assert rounds.due_at() < 100.0


def test_where_nothing_presses_the_next_waits_for_each_take_of_the_last() -> None:
    assert gone_round(1, since=10.0, until=10.1).due_at() == 10.1 + CALM
    assert gone_round(3, since=10.0, until=11.0).due_at() == 11.0 + 3 * CALM
    assert gone_round(200, since=10.0, until=15.0).due_at() == 15.0 + MOST_CALM


def test_where_something_presses_it_waits_for_a_multiple_of_what_the_last_took() -> None:
    rounds = gone_round(20, since=10.0, until=10.5)
    rounds.press()
    assert rounds.pressed
    assert rounds.due_at() == 10.5 + PRESSED * 0.5
    rounds.step(20.0, first=True)
    assert not rounds.pressed


def test_one_that_had_to_wait_keeps_the_next_no_longer_than_where_nothing_presses() -> None:
    """For workers that had enough in hand, or for a server that was away."""
    rounds = gone_round(2, since=0.0, until=1_000.0)
    rounds.press()
    assert rounds.due_at() == 1_000.0 + 2 * CALM
    rounds = gone_round(200, since=0.0, until=1_000.0)
    rounds.press()
    assert rounds.due_at() == 1_000.0 + MOST_CALM


def test_what_presses_while_one_is_under_way_is_not_forgotten() -> None:
    rounds = Rounds()
    rounds.step(10.0, first=True)
    rounds.press()
    rounds.step(10.2, first=False)
    rounds.over(10.4)
    assert rounds.pressed
    assert rounds.due_at() < 10.4 + CALM

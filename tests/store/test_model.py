"""The protocol on a real database against a model of it, step by step, whatever the steps.

``PGBUS_MODEL_EXAMPLES=5000`` makes a longer run of it, with other examples each time.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pgbus.core.walk import Step
from pgbus.store import letters, workers
from pgbus.store.leases import Take
from pgbus.store.query import run
from pgbus.store.settle import LaneSettlement
from tests.store.model import Event, Model
from tests.store.queue import Connection, Queue
from tests.store.worker import Worker
from tests.torture.mutants import break_sql

EXAMPLES = int(os.environ.get("PGBUS_MODEL_EXAMPLES", "0"))
EVERY = settings(
    max_examples=EXAMPLES or 100,
    stateful_step_count=50,
    derandomize=not EXAMPLES,
    database=None,
    suppress_health_check=list(HealthCheck),
)
MOST_WORKERS = 3
MOST_LOSSES = 3
"""Of replies: they lead back to where they began."""
LITTLE = 6
"""Events: with fewer, more are published."""
PICK = st.integers(0, 63)
KEYS = st.sampled_from(["a", "b", "c", None])


@dataclass
class Hand:
    """What a worker has of one lane, and goes on to believe that it has."""

    worker: Worker
    lane: int
    token: int
    left: list[int]
    troubled: bool


class Protocol(RuleBasedStateMachine):
    """Every rule does the same to the database and to the model, and compares the answers."""

    queues: ClassVar[dict[tuple[bool, bool], Queue]]
    """By whether they are ordered, and whether their keys park."""
    connections: ClassVar[list[Connection]]
    """For the workers."""

    def __init__(self) -> None:
        super().__init__()
        self.connection = self.queues[True, True].connection
        self.spare = [*self.connections]
        self.ordered = True
        self.queue: Queue
        self.model: Model
        self.workers: list[Worker] = []
        self.hands: list[Hand] = []
        self.losses = 0

    @initialize(
        ordered=st.booleans(), park=st.booleans(), keys=st.lists(KEYS, min_size=4, max_size=10)
    )
    def begin(self, ordered: bool, park: bool, keys: list[str | None]) -> None:
        self.ordered = ordered
        self.queue = self.queues[ordered, park]
        self.model = Model(park)
        name = self.queue.name
        self.connection.execute(
            f"delete from pgmq.q_{name}; delete from pgmq.q_{name}_dlq;"
            "delete from pgbus.lease; delete from pgbus.attempt; delete from pgbus.worker;"
            "select setval(pg_get_serial_sequence(x, 'msg_id'), 1, false) "
            f"from unnest(array['pgmq.q_{name}', 'pgmq.q_{name}_dlq']) x"
        )
        self.workers = [self.hire() for _ in range(MOST_WORKERS)]
        self.publish(keys, late=False)

    def hire(self) -> Worker:
        connection = self.spare.pop(0)
        self.spare.append(connection)
        return Worker(connection, self.queue)

    # A rule is for when it can change something: else most steps of a random walk are idle.

    def something_is_free(self) -> bool:
        return self.model.something_is_free

    def something_was_taken(self) -> bool:
        return bool(self.hands)

    def something_is_held(self) -> bool:
        return bool(self.model.leases)

    def somebody_is_silent_or_dead(self) -> bool:
        return any(one.id in self.model.silent | self.model.dead for one in self.workers)

    def there_is_little(self) -> bool:
        return len(self.model.events) < LITTLE

    @precondition(there_is_little)
    @rule(keys=st.lists(KEYS, min_size=1, max_size=6), late=st.integers(0, 5))
    def publish_some(self, keys: list[str | None], late: int) -> None:
        """Publish, now and then with a delay."""
        self.publish(keys, late=late == 5)

    def publish(self, keys: list[str | None], *, late: bool) -> None:
        for key, msg_id in zip(keys, self.queue.send(*keys, delay=3600 * late), strict=True):
            lane = msg_id if key is None or not self.ordered else self.queue.lane(key)
            assert msg_id > max(self.model.events, default=0)
            self.model.events[msg_id] = Event(lane, due=not late)

    @precondition(something_is_free)
    @rule(
        number=st.integers(0, MOST_WORKERS - 1),
        lanes=st.integers(1, 4),
        quantity=st.integers(1, 3),
        suspects=st.booleans(),
        start=st.none() | PICK,
        visits=st.integers(1, 8),
    )
    def take(
        self,
        number: int,
        lanes: int,
        quantity: int,
        suspects: bool,
        start: int | None,
        visits: int,
    ) -> None:
        """Take by lanes, or by arrival from some event on."""
        worker = self.workers[number]
        wish = worker.wish(lanes=lanes, quantity=quantity, suspects=suspects)
        if start is not None:
            ids = sorted(self.model.events)
            step = Step(by_arrival=True, start=ids[start % len(ids)], visits=visits)
            wish = replace(wish, step=step)
        before = {msg_id: trouble.counts for msg_id, trouble in self.model.troubles.items()}
        expected = self.expect(worker, wish)
        taken = worker.take(wish)
        assert taken.empty == []
        found = [
            (one.lane, one.suspect, [message.msg_id for message in one.messages])
            for one in taken.chunks
        ]
        assert found == expected
        for message in (message for chunk in taken.chunks for message in chunk.messages):
            failures, deaths, _, _ = before.get(message.msg_id, (0, 0, 0, 0))
            assert (message.failures, message.deaths) == (failures, deaths)
            assert message.troubled == (message.msg_id in before)
        for lane, _, ids in expected:
            self.hands.append(
                Hand(worker, lane, wish.token, ids, any(one in before for one in ids))
            )

    @precondition(lambda self: self.model.something_is_free and self.losses < MOST_LOSSES)
    @rule(number=st.integers(0, MOST_WORKERS - 1), lanes=st.integers(1, 4))
    def lose_the_reply_to_a_take(self, number: int, lanes: int) -> None:
        self.losses += 1
        worker = self.workers[number]
        wish = worker.wish(lanes=lanes)
        won = self.expect(worker, wish)
        worker.take(wish)
        assert run(worker.connection, workers.forget(worker.id, [wish.token])) == len(won)
        assert self.model.let_go(worker.id, wish.token) == len(won)

    def expect(self, worker: Worker, wish: Take) -> list[tuple[int, bool, list[int]]]:
        portions = self.model.take(
            worker.id,
            wish.token,
            wish.step,
            lanes=wish.lanes,
            quantity=wish.quantity,
            suspects=wish.suspects,
        )
        return [(one.lane, one.suspect, one.msg_ids) for one in portions]

    def hand(self, pick: int) -> Hand:
        """One of those that their workers still hold, or, one time in four, that they have lost."""
        kinds: tuple[list[Hand], list[Hand]] = ([], [])
        for one in self.hands:
            kinds[self.holds(one)].append(one)
        lost, held = kinds
        chosen = (held or lost) if pick % 4 else (lost or held)
        return chosen[pick % len(chosen)]

    def holds(self, hand: Hand) -> bool:
        return self.model.holds(hand.worker.id, hand.token, hand.lane)

    @precondition(something_was_taken)
    @rule(pick=PICK, count=st.integers(1, 3), release=st.booleans(), repeated=st.booleans())
    def acknowledge(self, pick: int, count: int, release: bool, repeated: bool) -> None:
        """Acknowledge; perhaps after a request that was lost, and again after a reply that was."""
        hand = self.hand(pick)
        finished = hand.left[:count]
        self.settle(hand, done=finished, release=release, repeated=repeated)
        if repeated and finished:
            lane = LaneSettlement(hand.lane, hand.token, release, done=finished)
            assert hand.worker.settle(lane, repeated=True) == set()

    @precondition(something_was_taken)
    @rule(
        pick=PICK,
        count=st.integers(0, 1),
        outcome=st.sampled_from(["failure", "release", "none"]),
        later=st.booleans(),
    )
    def fail(self, pick: int, count: int, outcome: str, later: bool) -> None:
        """What comes before is done; the next is to be tried again, the rest goes back."""
        hand = self.hand(pick)
        finished, rest = hand.left[:count], hand.left[count:]
        if rest:
            again = (rest[0], 3600.0 * later, outcome)
            self.settle(hand, done=finished, again=again, release=True)

    @precondition(something_was_taken)
    @rule(pick=PICK, count=st.integers(0, 1), release=st.booleans())
    def dead_letter(self, pick: int, count: int, release: bool) -> None:
        hand = self.hand(pick)
        finished, rest = hand.left[:count], hand.left[count:]
        if rest:
            self.settle(hand, done=finished, dead=rest[:1], release=release)

    def settle(
        self,
        hand: Hand,
        *,
        release: bool,
        done: list[int],
        again: tuple[int, float, str] | None = None,
        dead: list[int] | None = None,
        repeated: bool = False,
    ) -> None:
        dead = dead or []
        settlement = LaneSettlement(
            hand.lane,
            hand.token,
            release,
            done=done,
            again=again,
            dead=[(one, '{"tried": 1}') for one in dead],
            troubled=hand.troubled,
        )
        owned = hand.worker.settle(settlement, repeated=repeated)
        if not self.holds(hand):
            assert owned == set()
            return
        assert owned == {hand.lane}
        self.model.done(done)
        if again is not None:
            self.model.try_again(again[0], again[2], due=not again[1])
        for one in dead:
            self.model.give_up(one)
        if release:
            self.model.release(hand.lane)
        hand.left = [one for one in hand.left if one not in done and one not in dead]

    @precondition(something_was_taken)
    @rule(pick=PICK, release=st.booleans())
    def handle_in_a_transaction(self, pick: int, release: bool) -> None:
        """A handler that takes the transaction settles one event in it."""
        hand = self.hand(pick)
        if not hand.left:
            return
        first = hand.left[0]
        lane = LaneSettlement(hand.lane, hand.token, release, done=[first], troubled=hand.troubled)
        assert hand.worker.end_handling(lane) == self.holds(hand)
        if self.holds(hand):
            self.model.done([first])
            if release:
                self.model.release(hand.lane)
            del hand.left[0]

    @precondition(something_is_held)
    @rule(number=st.integers(0, MOST_WORKERS - 1))
    def fall_silent(self, number: int) -> None:
        worker = self.workers[number]
        worker.expire()
        if worker.id not in self.model.dead:
            self.model.silent.add(worker.id)

    @precondition(somebody_is_silent_or_dead)
    @rule(number=st.integers(0, MOST_WORKERS - 1))
    def beat(self, number: int) -> None:
        worker = self.workers[number]
        self.connection.execute(
            "update pgbus.worker set lease = interval '1h' where id = %s", (worker.id,)
        )
        assert worker.heartbeat() == (worker.id not in self.model.dead)
        self.model.silent.discard(worker.id)

    @precondition(somebody_is_silent_or_dead)
    @rule()
    def reap(self) -> None:
        assert len(run(self.connection, workers.reap())) == self.model.reap()

    @precondition(something_is_held)
    @rule(number=st.integers(0, MOST_WORKERS - 1))
    def crash(self, number: int) -> None:
        """A worker falls silent, is found, and another comes."""
        self.fall_silent(number)
        self.reap()
        self.workers[number] = self.hire()

    @precondition(something_is_held)
    @rule(number=st.integers(0, MOST_WORKERS - 1))
    def leave(self, number: int) -> None:
        worker = self.workers[number]
        worker.leave()
        self.model.let_go(worker.id)
        self.model.silent.discard(worker.id)
        self.model.dead.add(worker.id)
        self.workers[number] = self.hire()

    @precondition(lambda self: self.model.letters)
    @rule(limit=st.sampled_from([None, 1]))
    def redrive(self, limit: int | None) -> None:
        moved = run(self.connection, letters.redrive(self.queue.name, None, limit))
        assert moved == self.model.redrive(limit)

    @precondition(lambda self: self.model.letters)
    @rule()
    def drop_letters(self) -> None:
        dropped = run(self.connection, letters.drop(self.queue.name, None))
        assert dropped == self.model.drop_letters()

    @precondition(lambda self: any(not one.due for one in self.model.events.values()))
    @rule()
    def pass_time(self) -> None:
        rows = self.connection.execute(
            f"update pgmq.q_{self.queue.name} set vt = clock_timestamp() "
            "where vt > clock_timestamp() returning msg_id"
        )
        woken = sorted(msg_id for (msg_id,) in rows)
        assert woken == sorted(one for one, event in self.model.events.items() if not event.due)
        self.model.pass_time(woken)

    @invariant()
    def the_database_is_as_the_model(self) -> None:
        if not self.workers:
            return
        model = self.model
        found = self.queue.everything()
        assert found.ids == sorted(model.events)
        assert found.letters == sorted(model.letters)
        held = {lane: (one.worker, one.token) for lane, one in model.leases.items()}
        assert found.leases == held
        counts = {msg_id: trouble.counts for msg_id, trouble in model.troubles.items()}
        assert found.attempts == counts


Machine = Callable[[str | None], type[Protocol]]


@pytest.fixture
def machine(connection: Connection, another: Callable[[], Connection]) -> Machine:
    """Make a machine on a database, which a mutant may break first."""

    def make(mutant: str | None) -> type[Protocol]:
        class Here(Protocol):
            queues: ClassVar = {
                (ordered, park): Queue(
                    connection, f"q{ordered:d}{park:d}", ordered=ordered, park=park
                )
                for ordered in (True, False)
                for park in (True, False)
            }
            connections: ClassVar = [another() for _ in range(MOST_WORKERS)]

        break_sql(connection, mutant)
        return Here

    return make


def test_the_database_does_what_the_model_does(machine: Machine) -> None:
    run_state_machine_as_test(machine(None), settings=EVERY)


@pytest.mark.parametrize("mutant", ["unfenced-acknowledgement", "death-by-clock"])
def test_the_model_objects_to_a_broken_bus(machine: Machine, mutant: str) -> None:
    with pytest.raises(AssertionError):
        run_state_machine_as_test(
            machine(mutant), settings=settings(EVERY, phases=[Phase.generate])
        )

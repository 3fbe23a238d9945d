"""The lease protocol in plain Python: what the database must hold after each step, and answer.

One subscription, and time that stands still but for :meth:`Model.pass_time`. It is written from the
protocol's description and shares nothing with the SQL that it is compared with.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pgbus.core.walk import Step


@dataclass
class Event:
    """A message in the queue."""

    lane: int
    due: bool = True
    """Whether its time has come."""


@dataclass
class Trouble:
    """What went wrong with an event so far."""

    failures: int = 0
    deaths: int = 0
    suspected: int = 0
    releases: int = 0

    @property
    def suspect(self) -> bool:
        return self.deaths + self.suspected > 0

    @property
    def counts(self) -> tuple[int, int, int, int]:
        return self.failures, self.deaths, self.suspected, self.releases


class Lease(NamedTuple):
    """Who may handle a lane now."""

    worker: int
    token: int
    quantity: int
    suspect: int | None


class Portion(NamedTuple):
    """The events of one lane that a take hands out."""

    lane: int
    suspect: bool
    msg_ids: list[int]


@dataclass
class Model:
    """The state of a subscription; ``park``: a key with a dead letter waits behind it."""

    park: bool
    events: dict[int, Event] = field(default_factory=dict)
    leases: dict[int, Lease] = field(default_factory=dict)
    troubles: dict[int, Trouble] = field(default_factory=dict)
    letters: dict[int, int] = field(default_factory=dict)
    """The lane of each dead letter."""
    silent: set[int] = field(default_factory=set)
    """Workers that outlived their lease, which nobody has noticed."""
    dead: set[int] = field(default_factory=set)
    """Workers that were declared dead, or have left."""

    def lane(self, lane: int) -> list[int]:
        """The events of a lane, in order."""
        return sorted(one for one, event in self.events.items() if event.lane == lane)

    def take(
        self,
        worker: int,
        token: int,
        step: Step,
        *,
        lanes: int,
        quantity: int,
        suspects: bool,
    ) -> list[Portion]:
        waiting = self._arrived(step) if step.by_arrival else self._lanes(step)
        free = sorted([lane for lane in waiting if self._is_free(lane)][:lanes])
        heads = {lane: self.lane(lane)[0] for lane in free}
        doubtful = [lane for lane in free if self._is_suspect(heads[lane])]
        # Suspects of a death come alone, and one a take.
        won = [lane for lane in free if lane not in doubtful or (suspects and lane == doubtful[0])]
        portions = []
        for lane in won:
            suspect = heads[lane] if lane in doubtful else None
            self.leases[lane] = Lease(worker, token, quantity if suspect is None else 1, suspect)
            handed = [heads[lane]] if suspect is not None else self._ready(lane)[:quantity]
            portions.append(Portion(lane, suspect is not None, handed))
        return portions

    def _lanes(self, step: Step) -> list[int]:
        return sorted({one.lane for one in self.events.values() if one.lane >= step.start})

    def _arrived(self, step: Step) -> list[int]:
        """The lanes of what a step looks at, by the arrival of the first that it sees of each."""
        seen = [one for one in sorted(self.events) if one >= step.start][: step.visits]
        return list(dict.fromkeys(self.events[one].lane for one in seen))

    @property
    def something_is_free(self) -> bool:
        return any(self._is_free(event.lane) for event in self.events.values())

    def _is_free(self, lane: int) -> bool:
        parked = self.park and lane in self.letters.values()
        return self.events[self.lane(lane)[0]].due and lane not in self.leases and not parked

    def _ready(self, lane: int) -> list[int]:
        """What can be handed out of a lane: up to the first that has to wait, or to come alone."""
        ready = []
        for msg_id in self.lane(lane):
            if not self.events[msg_id].due or self._is_suspect(msg_id):
                break
            ready.append(msg_id)
        return ready

    def _is_suspect(self, msg_id: int) -> bool:
        return msg_id in self.troubles and self.troubles[msg_id].suspect

    def holds(self, worker: int, token: int, lane: int) -> bool:
        lease = self.leases.get(lane)
        return lease is not None and (lease.worker, lease.token) == (worker, token)

    def done(self, msg_ids: Iterable[int]) -> None:
        for msg_id in msg_ids:
            del self.events[msg_id]
            self.troubles.pop(msg_id, None)

    def try_again(self, msg_id: int, outcome: str, *, due: bool) -> None:
        self.events[msg_id].due = due
        if outcome != "none":
            trouble = self.troubles.setdefault(msg_id, Trouble())
            trouble.failures += outcome == "failure"
            trouble.releases += outcome == "release"

    def give_up(self, msg_id: int) -> None:
        self.letters[msg_id] = self.events[msg_id].lane
        self.done([msg_id])

    def release(self, lane: int) -> None:
        del self.leases[lane]

    def let_go(self, worker: int, token: int | None = None) -> int:
        """A worker gives back its lanes, or those of one take; returns how many."""
        mine = [
            lane
            for lane, lease in self.leases.items()
            if lease.worker == worker and token in (None, lease.token)
        ]
        for lane in mine:
            del self.leases[lane]
        return len(mine)

    def reap(self) -> int:
        """Declare the silent dead, and bury the dead; returns how many were declared."""
        declared = len(self.silent)
        self.dead |= self.silent
        self.silent.clear()
        for lane, lease in list(self.leases.items()):
            if lease.worker in self.dead:
                self._bury(lane, lease)
        return declared

    def _bury(self, lane: int, lease: Lease) -> None:
        del self.leases[lane]
        events = self.lane(lane)
        if lease.suspect is None:
            for msg_id in events[: lease.quantity]:
                self.troubles.setdefault(msg_id, Trouble()).suspected += 1
        elif lease.suspect in events:
            # Alone in hand, it is to blame, for the deaths that it was suspected of, too.
            trouble = self.troubles.setdefault(lease.suspect, Trouble())
            trouble.deaths += 1 + trouble.suspected
            trouble.suspected = 0

    def redrive(self, limit: int | None) -> int:
        chosen = sorted(self.letters)[:limit]
        for msg_id in chosen:
            self.events[msg_id] = Event(self.letters.pop(msg_id))
        return len(chosen)

    def drop_letters(self) -> int:
        dropped = len(self.letters)
        self.letters.clear()
        return dropped

    def pass_time(self, msg_ids: Sequence[int]) -> None:
        for msg_id in msg_ids:
            self.events[msg_id].due = True

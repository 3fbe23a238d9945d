"""Where a subscription looks for free lanes: lane by lane, or by the arrival of events.

By *lanes*, in the order of their hashes, any number of events of one lane is passed at once. But
hashes are without order: where a million keys wait, each event's row is on a page of its own, to be
read, written, and logged as a whole. By *arrival*, from the oldest event on, what was published
together is handled together, and pages are used up one after the other. But much that belongs to
few lanes, or to leased ones, is passed event by event.

So the walk goes by lanes until that brings all that was asked for, which means that much waits;
then by arrival, leaping ever further over what brings little (and half as far where a leap went
over the end); and by lanes again where the end is reached, or the leaps do not help, after which it
stays with the lanes for longer and longer. Whether nothing is free is for the lanes to tell. Where
another process goes the same way, one of them evades it.

A *crowd* of lanes that cannot be had (their events wait for a retry, behind a dead letter, or
elsewhere for their settlement) must not stand between new events and their handler. So where a step
by lanes has found too little among as many as it may look at, every other step goes by arrival
through the newest events alone; and such a step is enough where somebody wakes the walk soon after
it has gone round the whole crowd (see :class:`pgbus.core.rounds.Rounds`).
"""

from dataclasses import dataclass
from typing import Final

from pgbus.core.chance import CHANCE
from pgbus.core.newest import FIRST_EVENT, Newest
from pgbus.model.delivery import FIRST_LANE, LAST_LANE

LAST_EVENT: Final = 2**63 - 1
MOST_VISITS: Final = 5_000
"""Lanes, or events, to look at in one take."""
LEAST_EVENTS: Final = 64
"""Events to look at where few lanes are asked for, or after a leap: it is cheap to find out that
another is due."""
MOST_SPREAD: Final = 4
"""So many events may have to be looked at to find a free lane: more, and arrival brings little."""
LEAP: Final = 4
"""How much further each leap goes than the one before."""
MOST_LEAPS: Final = 8
"""So many in a row, over five million events, before lanes have their turn."""
MOST_DETOURS: Final = 64
"""So many takes by lanes, at most, before the next try by arrival."""
RETURN: Final = 64
"""After so many steps by arrival the walk returns to the oldest event: what was not free as it came
by must not wait until everything behind it is handled."""
STROLL: Final = 16
"""Every so many takes begin at a random lane: a stream of new events in front of the walk must not
keep it from ever reaching the others."""
MOST_EVADED: Final = 20_000
"""How many events to keep out of the way of another process, at most."""
MOST_NEWEST: Final = 16
"""Of so many steps beside a crowd, one goes by lanes at least."""


@dataclass(frozen=True, slots=True)
class Step:
    """Where one take is to look."""

    by_arrival: bool
    start: int
    """A lane or, by arrival, the id of a message."""
    visits: int
    """How many lanes, or events, to look at."""
    stroll: bool = False
    """Whether it is beside the way."""
    newest: bool = False
    """Whether it is for the newest events, beside a crowd."""

    @property
    def goes_through(self) -> bool:
        """Whether it looks at lane after lane, from the first on."""
        return not self.by_arrival and self.start == FIRST_LANE


class Walk:
    """One subscription's way through its queue. A single thread uses it."""

    def __init__(self) -> None:
        self._steps = 0
        self._by_arrival = False
        self._lane = FIRST_LANE
        self._barren = False
        self._event = FIRST_EVENT
        self._spread = 1.0
        self._leaps = 0
        # From where the last leap was; and where one went over the end, if one did.
        self._foothold = FIRST_EVENT
        self._beyond: int | None = None
        self._passed = 0
        # For how many takes to stay with the lanes: of those, how many are left.
        self._detours = 0
        self._detours_left = 0
        # Beside a crowd: whether it is the newest events' turn, and else the lanes'.
        self._crowded = False
        self._newest = Newest(MOST_VISITS)
        self._newest_next = False
        self._everywhere = True

    def next(self, lanes: int, *, everywhere: bool = True) -> Step:
        """Return where to look for so many lanes.

        Parameters:
            everywhere: whether to go round all lanes, though they be a crowd.
        """
        self._steps += 1
        if self._crowded and (self._newest_next or not everywhere):
            self._everywhere = everywhere
            visits = self._newest.visits(self._visits(lanes))
            return Step(by_arrival=True, start=self._newest.start, visits=visits, newest=True)
        start = self._event if self._by_arrival else self._lane
        if self._steps % STROLL == 0 and start not in (FIRST_LANE, FIRST_EVENT):
            return Step(by_arrival=False, start=_anywhere(), visits=MOST_VISITS, stroll=True)
        visits = MOST_VISITS
        if self._by_arrival:
            visits = LEAST_EVENTS if self._leaps else self._visits(lanes)
        return Step(self._by_arrival, start, visits)

    def _visits(self, lanes: int) -> int:
        """Return at how many events to look for so many lanes, as far as is known."""
        return max(LEAST_EVENTS, min(MOST_VISITS, int(lanes * self._spread)))

    def learn(
        self,
        step: Step,
        wished: int,
        found: int,
        resume: int | None,
        *,
        live: int | None = None,
        contested: bool = False,
    ) -> bool:
        """Learn what became of a step.

        Parameters:
            wished, found: how many lanes were asked for, and leased.
            resume: where to go on; ``None`` at the end.
            live: of a step by arrival the first event whose lane was free or, where none was, the
                one behind the last; ``None`` where it saw none.
            contested: whether another process won most of what there was.

        Returns:
            Whether all lanes have been seen, one after the other, and nothing was free; or, where
            it was not to go everywhere, all new events.
        """
        if step.stroll:
            return False
        if step.by_arrival:
            self._newest.note(found, live)
        if step.newest:
            return self._saw_the_newest(step, wished, found, resume, live)
        if contested and resume is not None:
            self._evade(step, resume)
            return False
        if step.by_arrival:
            self._went_by_arrival(step, wished, found, resume)
            return False
        return self._went_by_lanes(step, wished, found, resume)

    def _evade(self, step: Step, resume: int) -> None:
        """Go elsewhere: two that go side by side wait for each other at every step."""
        self._barren = False
        if step.by_arrival:
            away = CHANCE.randint(1, MOST_EVADED)
            self._event = min(LAST_EVENT, resume + away)
            self._end_leaps()
        else:
            self._lane = _anywhere()

    def _saw_the_newest(
        self, step: Step, wished: int, found: int, resume: int | None, live: int | None
    ) -> bool:
        # The others must have their turn, however much comes.
        self._newest_next = found >= wished and self._steps % MOST_NEWEST != 0
        helped = self._helped(step, wished, found)
        ended = self._newest.learn(step.visits, resume, live, helped=helped)
        return ended and not self._everywhere

    def _helped(self, step: Step, wished: int, found: int) -> bool:
        """Return whether it was worth while to go by arrival, and learn how far to look."""
        helped = found >= wished or found * MOST_SPREAD >= step.visits
        if helped:
            grown = 0.9 if found >= wished else 1.25
            self._spread = max(1.0, min(MOST_SPREAD, self._spread * grown))
        return helped

    def _went_by_lanes(self, step: Step, wished: int, found: int, resume: int | None) -> bool:
        self._barren = not found and (self._barren or step.goes_through)
        self._lane = FIRST_LANE if resume is None else resume
        if found >= wished or (resume is None and step.goes_through):
            self._crowded = False
        elif resume is not None:
            self._crowded = self._newest_next = True
        if found < wished:
            self._return()
        elif self._detours_left:
            self._detours_left -= 1
        else:
            self._by_arrival = True
        return self._barren and resume is None

    def _went_by_arrival(self, step: Step, wished: int, found: int, resume: int | None) -> None:
        self._barren = False
        self._passed += 1
        helped = self._helped(step, wished, found)
        if helped:
            self._detours = 0
        if self._passed >= RETURN:
            self._return()
        elif resume is None:
            self._came_to_the_end(step.start, found)
        elif helped:
            self._event = resume
            self._end_leaps()
        else:
            self._leap(resume)

    def _leap(self, place: int) -> None:
        """Go on far behind what brought little, if not as far as the end."""
        self._foothold = place
        if self._beyond is not None:
            self._halve(self._beyond)
            return
        self._leaps += 1
        self._event = min(LAST_EVENT, place + LEAST_EVENTS * LEAP**self._leaps)
        self._by_arrival = self._leaps % MOST_LEAPS != 0

    def _came_to_the_end(self, start: int, found: int) -> None:
        if self._leaps and not found:
            self._halve(start)
        else:
            self._by_arrival = False
            self._return()

    def _halve(self, beyond: int) -> None:
        """Go on between what brought little and where there was nothing any more."""
        self._beyond = beyond
        gap = beyond - self._foothold
        if gap > LEAST_EVENTS * LEAP:
            self._event = self._foothold + gap // 2
            return
        self._by_arrival = False
        self._detours = self._detours_left = min(MOST_DETOURS, max(1, 2 * self._detours))
        self._return()

    def _return(self) -> None:
        """Begin with the oldest event at the next step by arrival."""
        if self._passed:
            self._newest.begin()
        self._event, self._passed = FIRST_EVENT, 0
        self._end_leaps()

    def _end_leaps(self) -> None:
        self._leaps, self._beyond = 0, None


def _anywhere() -> int:
    return CHANCE.randint(FIRST_LANE, LAST_LANE)

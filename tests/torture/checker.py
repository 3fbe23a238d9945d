"""Every law at once, and the figures of a run."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tests.torture import fences, laws
from tests.torture.history import NEVER, History
from tests.torture.laws import Violation
from tests.torture.records import Begin, End, Fault, Told

DISRUPTIVE = ("kill", "stop", "terminate", "cut", "delay", "stall", "lost reply", "postmaster")
"""Faults after which a process that survives has to find its way back."""

RAISED = ("fail", "reject")


@dataclass
class Verdict:
    """What a history shows."""

    violations: list[Violation] = field(default_factory=list)
    published: int = 0
    """Events whose publishers were told that they are committed."""
    rolled_back: int = 0
    unknown: int = 0
    """Events whose publishers never learned what became of them."""
    deliveries: int = 0
    duplicates: int = 0
    """Deliveries after an event's first in a subscription."""
    effects: int = 0
    dead_letters: int = 0
    told: dict[str, int] = field(default_factory=dict)
    """What ``bus.on_error`` was told, by kind."""
    fenced: int = 0
    """Acknowledgements and the like that the database refused, because the lease had been taken
    away (from the audit; ``on_error`` is not told where a broken connection leaves it in doubt)."""
    deaths: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    recovery: dict[str, float] = field(default_factory=dict)
    """The worst time in seconds from the end of a fault, by its kind, until its victims worked on
    (for processes that were killed: until they were declared dead)."""

    @property
    def injected(self) -> int:
        """How often a process, a connection or the server was struck; that a handler raises, as
        many an event asks it to, is not counted."""
        return sum(count for kind, count in self.faults.items() if kind not in RAISED)


def check(history: History) -> list[Violation]:
    """Return every violation of a law."""
    return [
        *laws.loss(history),
        *laws.order(history),
        *laws.exactly_once(history),
        *fences.leases(history),
    ]


def judge(history: History) -> Verdict:
    """Check a history, and count."""
    fates = Counter(one.fate for one in history.published.values())
    deliveries = sum(isinstance(one, Begin) for one in history.records)
    faults = [one for one in history.records if isinstance(one, Fault)]
    return Verdict(
        violations=check(history),
        published=fates["committed"],
        rolled_back=fates["rolled back"],
        unknown=fates["unknown"],
        deliveries=deliveries,
        duplicates=deliveries - len(history.first_begins),
        effects=len(history.effects),
        dead_letters=len(history.letters),
        told=dict(Counter(one.kind for one in history.records if isinstance(one, Told))),
        fenced=fences.fenced(history),
        deaths=sum(row.kind == "died" for row in history.audit),
        faults=dict(sorted(Counter(one.kind for one in faults).items())),
        recovery=_worst(history, faults),
    )


def _worst(history: History, faults: list[Fault]) -> dict[str, float]:
    worst: dict[str, float] = {}
    for kind, seconds in _recoveries(history, faults):
        worst[kind] = max(worst.get(kind, 0.0), seconds)
    return dict(sorted(worst.items()))


def _recoveries(history: History, faults: list[Fault]) -> Iterator[tuple[str, float]]:
    """The times that can be told: those of victims that no other fault struck meanwhile."""
    works = _moments((one.pid, one.at) for one in history.records if isinstance(one, End))
    struck = _moments(
        (pid, one.at) for one in faults if one.kind in (*DISRUPTIVE, "term") for pid in one.pids
    )
    died = {
        history.processes[row.worker]: row.at - history.clock
        for row in history.audit
        if row.kind == "died" and row.worker in history.processes
    }
    # After a restart of the server everybody gets a lease more to come back.
    restarts = sorted(one.until for one in faults if one.kind == "postmaster")
    for fault in faults:
        if fault.kind == "term":
            yield fault.kind, (fault.until - fault.at) / 1e9
            continue
        for pid in fault.pids:
            if fault.kind in ("kill", "exit"):
                if pid in died and not (_after(restarts, fault.at) or NEVER) < died[pid] * 1e9:
                    yield fault.kind, died[pid] - fault.at / 1e9
            elif fault.kind in DISRUPTIVE:
                back = _after(works.get(pid, []), fault.until)
                again = _after(struck.get(pid, []), fault.at)
                if back is not None and (again is None or again > back):
                    yield fault.kind, (back - fault.until) / 1e9


def _moments(found: Iterable[tuple[int, int]]) -> dict[int, list[int]]:
    """The moments of each process, in order."""
    moments: dict[int, list[int]] = {}
    for pid, at in found:
        moments.setdefault(pid, []).append(at)
    for some in moments.values():
        some.sort()
    return moments


def _after(moments: list[int], moment: int) -> int | None:
    """The first of some moments in order that is later than another."""
    place = bisect_right(moments, moment)
    return moments[place] if place < len(moments) else None

"""Every law at once, and the figures of a run."""

from array import array
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from tests.torture import fences, laws, letters, losses
from tests.torture.account import Account, accounts
from tests.torture.behaviour import ATTEMPTS
from tests.torture.history import NEVER, History
from tests.torture.laws import Violation
from tests.torture.losses import Doubtful
from tests.torture.records import End, Fault, Gone, Together, Told

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
    redriven: int = 0
    dropped: int = 0
    parked: int = 0
    """How often a dead letter kept back the later events of its key."""
    batches: int = 0
    """Calls of handlers for more than one event."""
    largest_batch: int = 0
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
    return judge(history).violations


def judge(history: History, portions: int = 1) -> Verdict:
    """Check a history, and count.

    Parameters:
        portions: how many to judge the events in, one after the other, each in little memory.
    """
    verdict = Verdict()
    found: list[Doubtful] = []
    for account in accounts(history, portions):
        found += losses.doubtful(account)
        _judge(account, verdict)
    verdict.violations += [
        *losses.torn(found),
        *letters.places(history),
        *fences.leases(history),
        *_unrest(history),
    ]
    _count(history, verdict)
    return verdict


def _judge(account: Account, verdict: Verdict) -> None:
    verdict.violations += [
        *losses.loss(account),
        *laws.order(account),
        *laws.exactly_once(account),
        *laws.attempts(account, ATTEMPTS),
    ]
    fates = Counter(one.fate for one in account.published.values())
    verdict.published += fates["committed"]
    verdict.rolled_back += fates["rolled back"]
    verdict.unknown += fates["unknown"]
    deliveries = sum(map(len, account.begins.values()))
    verdict.deliveries += deliveries
    verdict.duplicates += deliveries - len(account.begins)
    verdict.effects += sum(map(len, account.effective.values()))
    verdict.redriven += sum(map(len, account.redriven.values()))
    verdict.dropped += account.dropped.total()
    verdict.parked += sum(
        len(some) for (name, _), some in account.lettered.items() if name in account.frame.parking
    )


def _unrest(history: History) -> Iterator[Violation]:
    if not history.drained:
        yield Violation("B", f"the bus did not come to rest: {len(history.left)} events wait")
    for broken in history.frame.broken:
        how = "did not end when asked to"
        if broken.code is not None:
            how = f"ended by itself, with the exit code {broken.code}"
        yield Violation("B", f"{broken.role} {broken.pid} {how}")


def _count(history: History, verdict: Verdict) -> None:
    faults: list[Fault] = []
    told: Counter[str] = Counter()
    for one in history.records:
        match one:
            case Fault():
                faults.append(one)
            case Told():
                told[one.kind] += 1
            case Together() if one.events > 1:
                verdict.batches += 1
                verdict.largest_batch = max(verdict.largest_batch, one.events)
    verdict.told = dict(told)
    verdict.dead_letters = len(history.letters)
    verdict.fenced = fences.fenced(history)
    verdict.deaths = sum(row.kind == "died" for row in history.audit)
    verdict.faults = dict(sorted(Counter(one.kind for one in faults).items()))
    verdict.recovery = _worst(history, faults)


def _worst(history: History, faults: list[Fault]) -> dict[str, float]:
    worst: dict[str, float] = {}
    for kind, seconds in _recoveries(history, faults):
        worst[kind] = max(worst.get(kind, 0.0), seconds)
    return dict(sorted(worst.items()))


def _recoveries(history: History, faults: list[Fault]) -> Iterator[tuple[str, float]]:
    """The times that can be told: those of victims that no other fault struck meanwhile."""
    processes = history.frame.processes
    works = _moments((one.pid, one.at) for one in history.records if isinstance(one, End))
    struck = _moments(
        [
            *(
                (pid, one.at)
                for one in faults
                if one.kind in (*DISRUPTIVE, "term", "exit")
                for pid in one.pids
            ),
            *((one.pid, one.at) for one in history.records if isinstance(one, Gone)),
        ]
    )
    died = {
        processes[row.worker]: row.at - history.clock
        for row in history.audit
        if row.kind == "died" and row.worker in processes
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


def _moments(found: Iterable[tuple[int, int]]) -> dict[int, Sequence[int]]:
    """The moments of each process, in order."""
    moments: dict[int, array[int]] = defaultdict(lambda: array("q"))
    for pid, at in found:
        moments[pid].append(at)
    return {pid: array("q", sorted(some)) for pid, some in moments.items()}


def _after(moments: Sequence[int], moment: int) -> int | None:
    """The first of some moments in order that is later than another."""
    place = bisect_right(moments, moment)
    return moments[place] if place < len(moments) else None

"""A run: it starts everything, lets the faults come, waits for the bus to come to rest, and tells.

The bus is at rest when every event is handled or a dead letter. What still waits, or is leased,
DRAIN seconds after the last fault, or STUCK seconds after the last progress, is what was left.
"""

import contextlib
import heapq
import itertools
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import psycopg

from tests.torture.audit import Connection
from tests.torture.crew import Crew, Member
from tests.torture.history import History
from tests.torture.records import Fault, now
from tests.torture.schedule import HARMS, OVERTIME, Planned, overtime
from tests.torture.schedule import plan as schedule
from tests.torture.stage import Stage

LATE_AT = 0.3
"""The share of a run after which a subscription joins."""
FULL, ROOM = 1_200, 800
"""Events that wait in the busiest queue: with more than FULL, publishers pause until ROOM is made.
However slow the machine is, the bus is under load and not overrun."""
STORED_MORE = 1.15
"""Of what was stored, some was rolled back."""
GAUGE = 0.2
"""Seconds between two looks at that."""
DRAIN = 60.0
STUCK = 20.0
"""Seconds of that without an event the fewer."""
LEAVE = 20.0
"""Seconds that processes get to end when they are asked to."""


@dataclass(frozen=True)
class Plan:
    """What a run is asked to be."""

    seed: int
    duration: float = 60.0
    """Seconds."""
    events: int = 0
    """Where fewer were published in that time, it goes on a while; see OVERTIME."""
    workers: int = 5
    publishers: int = 4
    keys: int = 80
    rate: float = 1_000.0
    """Events a second, at most."""
    lease: float = 1.5
    """Seconds."""
    mix: Mapping[str, int] = field(default_factory=dict)
    """See :func:`tests.torture.schedule.plan`."""
    mutant: str | None = None

    @property
    def options(self) -> str:
        """What ``python -m tests.torture`` takes to do the same again."""
        usual = Plan(self.seed, self.duration)
        words = [f"--seed {self.seed} --duration {self.duration:g}"]
        if self.mix:
            words.append("--faults " + ",".join(f"{kind}={n}" for kind, n in self.mix.items()))
        for name in ("events", "workers", "publishers", "keys", "rate", "lease", "mutant"):
            value = getattr(self, name)
            if value != getattr(usual, name):
                words.append(f"--{name} {value}")
        return " ".join(words)


class Entry(NamedTuple):
    """Something to do at a moment of the run."""

    at: float
    number: int
    """Keeps those of one moment apart."""
    action: Callable[[], None]
    ends: bool
    """Whether it ends a fault: then it is done, even if the run is over before."""


class Supervisor:
    """See the module."""

    def __init__(self, stage: Stage, plan: Plan) -> None:
        self._stage = stage
        self._plan = plan
        self._began = time.monotonic()
        self._schedule = schedule(plan.seed, plan.duration, plan.mix)
        if plan.events:
            self._schedule += overtime(plan.seed, plan.duration, plan.mix)
        self._crew = Crew(
            stage,
            stage.log,
            plan.mutant,
            plan.seed,
            plan.keys,
            plan.rate,
            _harms(self._schedule, plan.publishers),
        )
        self._looked_at = 0.0
        self._stored = 0
        self._agenda: list[Entry] = []
        self._numbers = itertools.count()

    def run(self) -> History:
        try:
            self._crew.hire(self._plan.workers, self._plan.publishers)
            self._began = time.monotonic()
            for planned in self._schedule:
                if planned.kind not in HARMS:
                    self._at(planned.at, partial(self._inject, planned))
            self._at(self._plan.duration * LATE_AT, self._join_late)
            self._follow_agenda()
            self._crew.dismiss_publishers(LEAVE)
            # Keys are parked until the operator has put back or dropped what parks them.
            drained = self._drain()
            self._crew.dismiss_operators(LEAVE)
            drained = drained and self._drain()
            with self._stage.connection() as connection:
                leases = self._stage.leases_at_rest(connection) if drained else []
            self._crew.dismiss_workers(LEAVE)
            return self._stage.history(leases=leases, drained=drained)
        finally:
            self._crew.end()

    def _at(self, moment: float, action: Callable[[], None], *, ends: bool = False) -> None:
        heapq.heappush(self._agenda, Entry(moment, next(self._numbers), action, ends))

    @property
    def _elapsed(self) -> float:
        return time.monotonic() - self._began

    def _follow_agenda(self) -> None:
        while not self._over():
            self._crew.tend()
            self._regulate()
            while self._agenda and self._agenda[0].at <= self._elapsed:
                heapq.heappop(self._agenda).action()
            due = self._agenda[0].at if self._agenda else self._elapsed + 1.0
            time.sleep(min(0.05, max(0.0, due - self._elapsed)))
        self._agenda = [entry for entry in self._agenda if entry.ends]
        while self._agenda:
            entry = heapq.heappop(self._agenda)
            time.sleep(max(0.0, entry.at - self._elapsed))
            entry.action()

    def _over(self) -> bool:
        if self._elapsed < self._plan.duration:
            return False
        enough = self._stored >= self._plan.events * STORED_MORE
        return enough or self._elapsed >= self._plan.duration * (1 + OVERTIME)

    def _regulate(self) -> None:
        """Let the publishers pause where the bus does not keep up."""
        if time.monotonic() < self._looked_at + GAUGE:
            return
        self._looked_at = time.monotonic()
        with contextlib.suppress(psycopg.Error), self._stage.connection() as connection:
            waiting, self._stored = self._stage.waiting(connection)
            if waiting > FULL:
                self._stage.dam.touch()
            elif waiting < ROOM:
                self._stage.dam.unlink(missing_ok=True)

    def _drain(self) -> bool:
        began = changed = time.monotonic()
        fewest = None
        with self._stage.connection() as connection:
            while time.monotonic() < min(began + DRAIN, changed + STUCK):
                self._crew.tend()
                waiting = self._stage.unfinished(connection)
                if not waiting:
                    return True
                if fewest is None or waiting < fewest:
                    fewest, changed = waiting, time.monotonic()
                time.sleep(0.2)
        return False

    # Faults.

    def _inject(self, planned: Planned) -> None:
        inject = {
            "kill": self._kill,
            "stop": self._stop,
            "term": self._term,
            "publisher": self._kill_publisher,
            "terminate": self._terminate,
            "postmaster": self._kill_postmaster,
        }.get(planned.kind, self._spoil)
        inject(planned)

    def _victim(self, planned: Planned) -> Member | None:
        fit = self._crew.fit_workers()
        return fit[int(planned.pick * len(fit))] if fit else None

    def _note(self, kind: str, at: int, pids: list[int]) -> None:
        self._stage.log.write(Fault(kind, at, now(), pids))

    def _kill(self, planned: Planned) -> None:
        victim = self._victim(planned)
        if victim is not None:
            at = now()
            victim.send(signal.SIGKILL)
            self._note("kill", at, [victim.pid])

    def _stop(self, planned: Planned) -> None:
        victim = self._victim(planned)
        if victim is None:
            return
        at = now()
        victim.stopped = True
        victim.send(signal.SIGSTOP)

        def resume() -> None:
            victim.stopped = False
            victim.send(signal.SIGCONT)
            self._note("stop", at, [victim.pid])

        self._at(self._elapsed + self._stage.lease + 0.4 + planned.size, resume, ends=True)

    def _term(self, planned: Planned) -> None:
        victim = self._victim(planned)
        if victim is not None:
            self._crew.dismiss(self._crew.workers.index(victim))

    def _kill_publisher(self, planned: Planned) -> None:
        victims = [*self._crew.publishers, *self._crew.operators]
        at = now()
        victims[int(planned.pick * len(victims))].send(signal.SIGKILL)
        self._note("publisher", at, [])

    def _terminate(self, planned: Planned) -> None:
        """End the sessions of one to three clients, whoever they are."""
        at = now()
        with contextlib.suppress(psycopg.Error), self._stage.connection() as connection:
            sessions = _sessions(connection)
            first = int(planned.pick * len(sessions))
            chosen = (sessions[first:] + sessions[:first])[: 1 + int(planned.size * 3)]
            backends = [backend for backend, _ in chosen]
            connection.execute("select pg_terminate_backend(p) from unnest(%s) p", (backends,))
            self._note("terminate", at, [pid for _, pid in chosen if pid is not None])

    def _kill_postmaster(self, planned: Planned) -> None:
        at = now()
        self._stage.server.kill9()
        time.sleep(planned.size)
        self._stage.server.start()
        self._note("postmaster", at, [one.pid for one in self._crew.fit_workers()])

    def _spoil(self, planned: Planned) -> None:
        """Something happens to a proxy: that of the workers, or that of the publishers."""
        of_workers = planned.pick < 0.75
        proxy = self._stage.workers_proxy if of_workers else self._stage.publishers_proxy
        pids = [one.pid for one in self._crew.fit_workers() if one.proxied] if of_workers else []
        at = now()

        def over() -> None:
            proxy.delay = 0.0
            proxy.resume()
            self._note(planned.kind, at, pids)

        if planned.kind == "cut":
            proxy.cut()
            self._note("cut", at, pids)
        elif planned.kind == "lost reply":
            proxy.lose_reply(b"")
            self._note("lost reply", at, [])
        elif planned.kind == "delay":
            proxy.delay = 0.01 + 0.05 * planned.size
            self._at(self._elapsed + 0.4, over, ends=True)
        else:
            proxy.stall()
            self._at(self._elapsed + 0.2 + 1.5 * planned.size, over, ends=True)

    def _join_late(self) -> None:
        """A subscription is declared, and rolling restarts bring workers that serve it."""
        self._stage.declare_late()
        self._crew.late = True
        for number in range(0, len(self._crew.workers), 2):
            if self._crew.workers[number].fit:
                self._crew.dismiss(number)


def _harms(schedule: Sequence[Planned], publishers: int) -> list[list[tuple[int, str]]]:
    """Share out, among the publishers, the faults that come as events."""
    shares: list[list[tuple[int, str]]] = [[] for _ in range(publishers)]
    begin = now()
    for one in schedule:
        if one.kind in HARMS:
            share = shares[int(one.pick * publishers)]
            share.append((begin + int(one.at * 1e9), one.kind))
    return shares


def _sessions(connection: Connection) -> list[tuple[int, int | None]]:
    """The backends of clients, and the worker process at the other end where there is one."""
    return connection.execute(
        "select a.pid, w.pid from pg_stat_activity a left join pgbus.worker w "
        "on a.application_name = 'pgbus/' || to_hex(w.id) "
        "where a.datname = current_database() and a.backend_type = 'client backend' "
        "and a.pid <> pg_backend_pid() order by a.pid"
    ).fetchall()

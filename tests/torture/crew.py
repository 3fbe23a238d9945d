"""The processes of a run: started, struck down and started again."""

import multiprocessing
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from tests.torture.operators import Duty, operate
from tests.torture.publishers import WAYS, Errand, publish
from tests.torture.records import Broken, Fault, Gone, Log, now
from tests.torture.stage import Stage
from tests.torture.workers import AWAY, Post, work

_forks = multiprocessing.get_context("forkserver")
# Imports done once: a worker that was killed is back in some 20 ms.
_forks.set_forkserver_preload(
    ["tests.torture.publishers", "tests.torture.workers", "tests.torture.operators"]
)

EXPECTED = {0, 3, 4, AWAY, -signal.SIGKILL, -signal.SIGTERM}
"""How a process may end: by a SIGTERM (before it listens to it, too), by a handler that exits, by
SIGKILL, and because the server was away."""
SHARES = {"many": 4.0, "long": 1.0, "cut": 1.0}
"""Of the events: plain batches carry most of the load."""


@dataclass
class Member:
    """One process; its place is taken by another when it dies."""

    process: ForkServerProcess
    proxied: bool = False
    stopped: bool = False
    asked_at: int | None = None
    """When it was sent SIGTERM, in which case it is not replaced."""

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    @property
    def fit(self) -> bool:
        """Whether it is there to be struck."""
        return self.process.is_alive() and not self.stopped and self.asked_at is None

    def send(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)


@dataclass
class Crew:
    """Workers, publishers and an operator; ``tend`` replaces the dead."""

    stage: Stage
    log: Log
    mutant: str | None
    seed: int
    keys: int
    rate: float
    harms: list[list[tuple[int, str]]]
    """For each publisher, when (monotonic nanoseconds) it publishes what does which harm."""
    late: bool = False
    workers: list[Member] = field(default_factory=list)
    publishers: list[Member] = field(default_factory=list)
    operators: list[Member] = field(default_factory=list)
    leaving: list[Member] = field(default_factory=list)
    """Those that were asked to go, and have not yet."""
    _started: int = 0
    _shares: float = 1.0

    def hire(self, workers: int, publishers: int) -> None:
        self._shares = sum(SHARES[WAYS[number % len(WAYS)]] for number in range(publishers))
        self.workers = [self._worker(number) for number in range(workers)]
        self.publishers = [self._publisher(number) for number in range(publishers)]
        self.operators = [self._operator()]

    def _worker(self, number: int) -> Member:
        proxied = number % 2 == 1
        post = Post(
            dsn=self.stage.workers_proxy.dsn if proxied else self.stage.dsn,
            log=self.stage.log_file,
            output=self._output(f"worker-{number}"),
            lease=self.stage.lease,
            mended=self.stage.mended,
            late=self.late,
            mutant=self.mutant,
        )
        return Member(self._start(work, post), proxied)

    def _publisher(self, number: int) -> Member:
        way = WAYS[number % len(WAYS)]
        proxied = way == "many"
        self._started += 1
        errand = Errand(
            name=f"p{number}-{self._started}",
            way=way,
            seed=self.seed * 1000 + self._started,
            dsn=self.stage.publishers_proxy.dsn if proxied else self.stage.dsn,
            log=self.stage.log_file,
            output=self._output(f"publisher-{number}"),
            keys=self.keys,
            rate=self.rate * SHARES[way] / self._shares,
            dam=self.stage.dam,
            harms=[harm for harm in self.harms[number] if harm[0] > now()],
        )
        return Member(self._start(publish, errand), proxied)

    def _operator(self) -> Member:
        self._started += 1
        duty = Duty(
            dsn=self.stage.publishers_proxy.dsn,
            straight=self.stage.dsn,
            log=self.stage.log_file,
            output=self._output("operator"),
            mended=self.stage.mended,
            seed=self.seed * 1000 + self._started,
        )
        return Member(self._start(operate, duty), proxied=True)

    def _output(self, name: str) -> Path:
        return self.stage.folder / f"{name}.output"

    @staticmethod
    def _start(target: object, argument: Post | Errand | Duty) -> ForkServerProcess:
        process = _forks.Process(target=target, args=(argument,), daemon=True)  # type: ignore[arg-type]
        process.start()
        return process

    def tend(self) -> None:
        """Put others in the place of those that died."""
        for number, member in enumerate(self.workers):
            if not member.process.is_alive():
                self._look_at("worker", member)
                self.workers[number] = self._worker(number)
        for number, member in enumerate(self.publishers):
            if not member.process.is_alive():
                self._look_at("publisher", member)
                self.publishers[number] = self._publisher(number)
        for number, member in enumerate(self.operators):
            if not member.process.is_alive():
                self._look_at("operator", member)
                self.operators[number] = self._operator()
        for member in list(self.leaving):
            if not member.process.is_alive():
                self.leaving.remove(member)
                self._look_at("worker", member)
                assert member.asked_at is not None
                self.log.write(Fault("term", member.asked_at, now(), [member.pid]))

    def _look_at(self, role: str, member: Member) -> None:
        """Note a process that ended, and one that ended as nobody wanted."""
        self.log.write(Gone(member.pid, now()))
        code = member.process.exitcode
        if code is not None and code not in EXPECTED:
            self.log.write(Broken(role, member.pid, code))

    def fit_workers(self) -> list[Member]:
        return [member for member in self.workers if member.fit]

    def dismiss(self, number: int) -> None:
        """Ask a worker to go; another takes its place at once, as in a rolling restart."""
        member = self.workers[number]
        member.asked_at = now()
        member.send(signal.SIGTERM)
        self.leaving.append(member)
        self.workers[number] = self._worker(number)

    def dismiss_publishers(self, timeout: float) -> None:
        """Let the publishers bring to an end what they are at, and go."""
        self._dismiss("publisher", self.publishers, timeout)

    def dismiss_operators(self, timeout: float) -> None:
        """Let no more dead letters be put back."""
        self._dismiss("operator", self.operators, timeout)

    def _dismiss(self, role: str, members: list[Member], timeout: float) -> None:
        for member in members:
            member.send(signal.SIGTERM)
        self._join(role, members, timeout)
        members.clear()

    def dismiss_workers(self, timeout: float) -> None:
        everybody = [*self.workers, *self.leaving]
        for member in everybody:
            member.send(signal.SIGTERM)
        self._join("worker", everybody, timeout)
        self.workers, self.leaving = [], []

    def _join(self, role: str, members: list[Member], timeout: float) -> None:
        """Wait for those that were asked to go; to outlive the time they get is an error."""
        deadline = time.monotonic() + timeout
        for member in members:
            member.process.join(max(0.0, deadline - time.monotonic()))
            if member.process.is_alive():
                member.send(signal.SIGKILL)
                member.process.join(5.0)
                self.log.write(Broken(role, member.pid, None))
            self._look_at(role, member)

    def end(self) -> None:
        """End whoever is left, however it is."""
        for member in [*self.workers, *self.leaving, *self.publishers, *self.operators]:
            member.send(signal.SIGKILL)
            member.process.join(5.0)

"""Consuming processes, and how fast they get through what waits."""

import multiprocessing
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

from benchmarks.peers import make
from benchmarks.tally import SPAWN, Counter, Job, Ledger, Tally

FORKS: ForkServerContext = multiprocessing.get_context("forkserver")
"""Fresh processes, as consumers in production are: nothing of the measuring one is in them. They
are forks of one that imported the bus and did nothing else: each starts half a second sooner.

Of the files that were mapped before a fork, the kernel counts only what the process touches itself:
whose memory is measured has to start ``alone``.
"""
FORKS.set_forkserver_preload(["benchmarks.crowd", "benchmarks.peers.pgbus"])
STARTING = 60.0
ENDING = 60.0
PAUSE = 0.001
WARM = 10
"""The clock starts when one in so many is handled: by then, every process is at work."""


class Progress(NamedTuple):
    """What was handled between two moments."""

    events: int
    seconds: float

    @property
    def rate(self) -> float:
        """Events a second."""
        return self.events / self.seconds


class Crowd:
    """The processes that consume, seen from the one that measures."""

    def __init__(self, processes: Sequence[BaseProcess], tallies: Sequence[Tally]) -> None:
        self.tallies = tallies
        self.began = 0.0
        self._processes = processes

    @property
    def handled(self) -> int:
        """How many events all of them handled."""
        return sum(tally.handled for tally in self.tallies)

    @property
    def misplaced(self) -> int:
        """How many events came twice, or after a later one of their key; 0 without a ledger."""
        return sum(tally.misplaced for tally in self.tallies)

    def check_order(self, where: str) -> None:
        """Raise where an event came twice or out of order."""
        if self.misplaced:
            raise RuntimeError(f"{self.misplaced} events twice or out of order in {where!r}")

    @property
    def pids(self) -> list[int]:
        """The processes' ids."""
        return [process.pid for process in self._processes if process.pid is not None]

    def start(self) -> None:
        """Start them, and let them begin together."""
        for process in self._processes:
            process.start()
        for tally in self.tallies:
            deadline = time.monotonic() + STARTING
            while not tally.ready.wait(0.05):
                self._check()
                if time.monotonic() > deadline:
                    raise RuntimeError("a consumer did not connect")
        self.began = time.monotonic()
        for tally in self.tallies:
            tally.go.set()

    def reach(self, count: int, limit: float) -> float:
        """Wait until ``count`` events are handled, or ``limit`` seconds; return the moment."""
        deadline = time.monotonic() + limit
        checked = 0.0
        while self.handled < count:
            now = time.monotonic()
            if now > deadline:
                break
            if now > checked + 0.1:
                checked = now
                self._check()
            time.sleep(PAUSE)
        return time.monotonic()

    def stop(self) -> None:
        """Let them finish, and wait for their end."""
        for tally in self.tallies:
            tally.go.set()
            tally.stop.set()
        for process in self._processes:
            if process.pid is None:
                continue
            process.join(ENDING)
            if process.is_alive():
                process.kill()
                process.join()

    def _check(self) -> None:
        if any(process.exitcode not in (None, 0) for process in self._processes):
            raise RuntimeError("a consumer failed; see its error above")


@contextmanager
def crowd(
    contender: str,
    dsn: str,
    job: Job,
    *,
    processes: int = 1,
    delays: int = 0,
    ledger: Ledger | None = None,
    alone: bool = False,
) -> Iterator[Crowd]:
    """Run consumers for the length of a block.

    Parameters:
        delays: of so many events, measure how long they took.
        ledger: what all of them note in what they handle.
        alone: start them from scratch, for their memory to be measured.
    """
    context = SPAWN if alone else FORKS
    tallies = [Tally(delays) for _ in range(processes)]
    consumers = [
        context.Process(target=_consume, args=(contender, dsn, job, ledger, tally), daemon=True)
        for tally in tallies
    ]
    made = Crowd(consumers, tallies)
    try:
        made.start()
        yield made
    finally:
        made.stop()


def drain(consumers: Crowd, total: int, limit: float) -> Progress:
    """Measure how fast the last nine tenths of ``total`` waiting events are handled.

    What takes longer than ``limit`` seconds is judged by what it handled until then.
    """
    warm = max(1, total // WARM)
    start = consumers.reach(warm, limit)
    first = consumers.handled
    end = consumers.reach(total, limit)
    last = min(consumers.handled, total)
    if last > first:
        return Progress(last - first, end - start)
    if last < total:
        raise RuntimeError(f"handled {last} of {total} events in {limit:.0f} s")
    # So few that they came at once.
    return Progress(last, end - consumers.began)


def resident(pid: int) -> float:
    """Return the memory that a process has had at most, in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def _consume(contender: str, dsn: str, job: Job, ledger: Ledger | None, tally: Tally) -> None:
    threading.Thread(target=_die_with_parent, daemon=True).start()
    peer = make(contender, dsn)
    peer.open()
    try:
        peer.consume(job, Counter(tally, job, ledger))
    finally:
        peer.close()


def _die_with_parent() -> None:
    """End the process when the one that measures was killed: it would consume for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)

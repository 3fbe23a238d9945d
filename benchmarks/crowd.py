"""Consuming processes, and how fast they get through what waits."""

import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks.peers import make
from benchmarks.tally import SPAWN, Counter, Job, Tally

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

    def __init__(self, contender: str, dsn: str, job: Job, tallies: list[Tally]) -> None:
        self.tallies = tallies
        self.began = 0.0
        self._processes = [
            SPAWN.Process(target=_consume, args=(contender, dsn, job, tally), daemon=True)
            for tally in tallies
        ]

    @property
    def handled(self) -> int:
        """How many events all of them handled."""
        return sum(tally.handled for tally in self.tallies)

    @property
    def misordered(self) -> int:
        """How many events came before an earlier one of their key."""
        return sum(tally.misordered for tally in self.tallies)

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
    contender: str, dsn: str, job: Job, *, processes: int = 1, delays: int = 0
) -> Iterator[Crowd]:
    """Run consumers for the length of a block."""
    made = Crowd(contender, dsn, job, [Tally(delays) for _ in range(processes)])
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


def _consume(contender: str, dsn: str, job: Job, tally: Tally) -> None:
    threading.Thread(target=_die_with_parent, daemon=True).start()
    peer = make(contender, dsn)
    peer.open()
    try:
        peer.consume(job, Counter(tally, job))
    finally:
        peer.close()


def _die_with_parent() -> None:
    """End the process when the one that measures was killed: it would consume for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)

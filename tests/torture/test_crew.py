"""Processes of a run that end as nobody wanted, or not at all."""

import multiprocessing
import signal
import threading
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import cast

import pytest

from pgbus import Bus, StoreError
from tests.torture import workers
from tests.torture.behaviour import Staff
from tests.torture.crew import Crew, Member
from tests.torture.records import Broken, Log, read
from tests.torture.stage import Stage
from tests.torture.workers import AWAY, Post, work


def _stay(ready: Event) -> None:
    """Whatever SIGTERM says."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ready.set()
    threading.Event().wait()


def test_a_worker_that_does_not_end_when_it_is_asked_to_is_told_of(tmp_path: Path) -> None:
    processes = multiprocessing.get_context("forkserver")
    ready = processes.Event()
    process = processes.Process(target=_stay, args=(ready,), daemon=True)
    process.start()
    assert ready.wait(20)
    with Log(tmp_path / "log") as log:
        crew = Crew(cast("Stage", None), log, None, seed=1, keys=1, rate=1.0, harms=[])
        crew.workers = [Member(process)]
        crew.dismiss_workers(timeout=0.1)
    assert process.exitcode == -signal.SIGKILL
    broken = [one for one in read(tmp_path / "log") if isinstance(one, Broken)]
    assert broken == [Broken("worker", process.pid or 0, None)]


@pytest.mark.parametrize("began", [False, True])
def test_a_server_that_is_away_ends_a_worker_before_its_handlers_begin(
    began: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hire(self: Staff, bus: Bus, *, late: bool) -> None:
        self.began = began

    def run(self: Bus, timeout: float) -> None:
        raise StoreError("the server is away")

    monkeypatch.setattr(workers, "settle_in", lambda output: None)
    monkeypatch.setattr(Staff, "hire", hire)
    monkeypatch.setattr(Bus, "run", run)
    post = Post("dbname=none", tmp_path / "log", tmp_path, 1.0, tmp_path, late=False, mutant=None)
    if began:
        with pytest.raises(StoreError):
            work(post)
    else:
        with pytest.raises(SystemExit) as end:
            work(post)
        assert end.value.code == AWAY

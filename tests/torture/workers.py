"""A process that handles events until it is told to stop, or worse."""

import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from pgbus import Bus, StoreError
from tests.torture import mutants
from tests.torture.behaviour import Staff
from tests.torture.records import Log

GRACE = 3.0
"""Seconds that handlers get after a SIGTERM."""
AWAY = 5
"""The exit code of a process that could not start because the server was away."""


class Post(NamedTuple):
    """What a worker process is told."""

    dsn: str
    log: Path
    output: Path
    lease: float
    mended: Path
    late: bool
    mutant: str | None


def work(post: Post) -> None:
    """Run the handlers until SIGTERM."""
    settle_in(post.output)
    mutants.break_python(post.mutant)
    with Log(post.log) as log, Bus(post.dsn, service="torture", lease=post.lease) as bus:
        staff = Staff(log, post.lease, post.mended)
        staff.hire(bus, late=post.late)
        try:
            bus.run(timeout=GRACE)
        except StoreError:
            if staff.began:
                raise  # an end in mid-run is none that anybody wants
            # The server is away: we are started again, unless we were asked to stop meanwhile.
            time.sleep(0.1)
            sys.exit(AWAY)


def settle_in(output: Path) -> None:
    """Write to a file of our own, and end with the process that started us."""
    file = os.open(output, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    logging.basicConfig(
        level=logging.ERROR, stream=sys.stderr, format="%(asctime)s %(process)d %(message)s"
    )
    threading.Thread(target=_follow_parent, daemon=True).start()


def asked_to_end() -> threading.Event:
    """Return what SIGTERM sets from now on."""
    asked = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        asked.set()

    signal.signal(signal.SIGTERM, ask)
    return asked


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)

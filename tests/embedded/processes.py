"""Processes that use an embedded server, and what can be seen of the server from outside."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from pgbus.embedded.home import Rooms
from pgbus.embedded.lock import is_held
from tests.waiting import eventually

SCRIPT = Path(__file__).with_name("user.py")
SITE = Path(psutil.__file__).parents[1]
# Follows the .pth file of an editable install, which PYTHONPATH would not.
BOOT = """
import runpy, site, sys
site.addsitedir(sys.argv.pop(1))
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""


class UserError(Exception):
    """What went wrong in the other process."""


class User:
    """Another process that uses the server in ``home``."""

    def __init__(self, home: Path, *, uid: int | None = None, python: str | None = None) -> None:
        self.process = subprocess.Popen(
            [python or sys.executable, "-c", BOOT, str(SITE), str(SCRIPT), str(home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd="/",
            user=uid,
            group=uid,
            extra_groups=None if uid is None else [],
        )

    def ask(self, *request: str) -> None:
        """Send a request whose answer is read later."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        """Return the answer to the oldest request."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            _, errors = self.process.communicate(timeout=60)
            raise UserError(f"the process ended: {errors}")
        answer = json.loads(line)
        if "error" in answer:
            raise UserError(f"{answer['error']}: {answer['message']}")
        return answer["ok"]

    def do(self, *request: str) -> Any:
        """Send a request and return its answer."""
        self.ask(*request)
        return self.answer()

    def signal(self, number: int) -> None:
        """Send a signal and wait for the end."""
        self.process.send_signal(number)
        self.process.wait(timeout=60)

    def end(self) -> str:
        """Close its input, wait for its end and return what it wrote to standard error."""
        try:
            _, errors = self.process.communicate(timeout=60)
        finally:
            self.process.kill()
        return errors


class Seen:
    """A server, seen from outside."""

    def __init__(self, folder: Path) -> None:
        self.rooms = Rooms(folder)

    @property
    def lives(self) -> bool:
        """Whether any process of the server, or its guardian, is there."""
        return is_held(self.rooms.server) or is_held(self.rooms.guardian)

    def postmaster(self) -> psutil.Process:
        pid = int((self.rooms.data / "postmaster.pid").read_text(encoding="utf-8").split("\n")[0])
        return psutil.Process(pid)

    def guardian(self) -> psutil.Process:
        parent = self.postmaster().parent()
        assert parent is not None
        return parent

    def environment(self) -> set[str]:
        """The names of the variables that the server was given."""
        return set(self.postmaster().environ())

    def await_end(self) -> None:
        eventually(lambda: not self.lives, message="the server did not end")

    def processes(self) -> list[psutil.Process]:
        """Every living process that works in the folder."""
        found = []
        for process in psutil.process_iter():
            try:
                if Path(process.cwd()).is_relative_to(self.rooms.folder):
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found

    def clean_up(self) -> None:
        """Let the server end, by force if it does not; whoever uses it should be gone by now."""
        try:
            self.await_end()
        finally:
            for process in self.processes():
                process.kill()
            eventually(lambda: not self.lives)


def kill(process: psutil.Process) -> None:
    """Kill a process and wait until it is gone: until then, its server may still answer."""
    process.kill()
    process.wait(timeout=60)


def ordinary_python(uid: int) -> str | None:
    """Return a Python that an ordinary user can run pgbus with, if there is one."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, shutil.which(name, path="/usr/bin:/usr/local/bin")):
        try:
            check = f"import site; site.addsitedir({str(SITE)!r}); import psycopg, pgbus.embedded"
            done = subprocess.run(
                [python or "", "-c", check],
                user=uid if os.geteuid() == 0 else None,
                cwd="/",
                capture_output=True,
                timeout=20,
            )
        except OSError:
            continue
        if done.returncode == 0:
            return python
    return None

"""The process that runs PostgreSQL, and stops it when the last user is gone.

This file is run as a script of its own (``python -I -S guardian.py PLAN``): it needs nothing but
the standard library, starts in 20 ms, and cares neither for the environment nor for the working
folder of the process that happened to start it.

Its life::

    starting    takes guardian.lock and server.lock, then leaves its parent
    preparing   makes the data folder if there is none, sweeps what a killed server left
    running     postgres is its child; it waits for the child's end
    stopping    holds users.lock exclusively: newcomers wait until it is gone, then start afresh

``server.lock`` is inherited by postgres and all its children, so it is free only when the last of
them is gone. A guardian that dies takes the server with it (PR_SET_PDEATHSIG): no server runs
without somebody to stop it.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

LOCK_TIMEOUT = 2.0
INITDB_TIMEOUT = 300.0
STOP_TIMEOUTS = {signal.SIGINT: 30.0, signal.SIGQUIT: 5.0, signal.SIGKILL: 5.0}
LOG_LIMIT = 4 * 1024 * 1024
_PR_SET_PDEATHSIG = 1


class Plan(NamedTuple):
    """What a guardian is told; every field is written once, by the process that starts it."""

    folder: str
    programs: str
    sockets: str
    prefix: list[str]
    uid: int | None
    gid: int | None


def main(arguments: list[str]) -> None:
    """Run the plan in ``arguments[1]``; return (in the parent) as soon as the locks are held."""
    plan = Plan(*json.loads(arguments[1]))
    os.umask(0o077)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.chdir(plan.folder)
    _take("guardian.lock")
    server = _take("server.lock")
    if os.fork() == 0:
        os.setsid()
        _guard(plan, server)
        # Not by way of the interpreter's shutdown, which waits for threads that still read.
        os._exit(0)


def _take(name: str) -> int:
    fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    deadline = time.monotonic() + LOCK_TIMEOUT
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                sys.exit(f"guardian: somebody else holds {name}")
            time.sleep(0.01)
        else:
            return fd


def _guard(plan: Plan, lock: int) -> None:
    if not Path("data").exists():
        _make_data(plan, lock)
    _sweep(plan)
    server = _spawn(plan, lock, _postgres(plan))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.send_signal(signal.SIGINT))
    pump = threading.Thread(target=_keep_log, args=(server,), daemon=True)
    pump.start()
    threading.Thread(target=_stop_when_unused, args=(server,), daemon=True).start()
    server.wait()
    # Orphaned children of a killed postgres keep the pipe open; their last words do not matter.
    pump.join(timeout=0.2)
    if Path(plan.sockets).parent != Path(plan.folder):
        _remove_sockets(Path(plan.sockets))


def _make_data(plan: Plan, lock: int) -> None:
    """Make the data folder beside its place and move it there whole, or not at all."""
    staging = Path("data.new")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(mode=0o700)
    if plan.uid is not None and plan.gid is not None:
        os.chown(staging, plan.uid, plan.gid)
    initdb = _spawn(
        plan,
        lock,
        [
            *(f"{plan.programs}/initdb", "-D", str(staging.absolute()), "--username=postgres"),
            *("--auth-local=trust", "--auth-host=reject", "--no-instructions"),
            # The builtin locale is the same on every machine, whichever locales it has installed.
            *("--encoding=UTF8", "--locale=C"),
            *("--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
            *("-c", "max_connections=200"),
        ],
    )
    output, _ = initdb.communicate(timeout=INITDB_TIMEOUT)
    if initdb.returncode != 0:
        sys.stdout.buffer.write(output)
        sys.stdout.flush()
        shutil.rmtree(staging, ignore_errors=True)
        os._exit(1)
    staging.rename("data")
    folder = os.open(".", os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def _postgres(plan: Plan) -> list[str]:
    settings = {
        "listen_addresses": "",
        "port": "5432",
        "unix_socket_directories": '"' + plan.sockets.replace('"', '""') + '"',
        "unix_socket_permissions": "0700",
        "logging_collector": "off",
        "log_destination": "stderr",
    }
    chosen = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    return [f"{plan.programs}/postgres", "-D", str(Path("data").absolute()), *chosen]


def _spawn(plan: Plan, lock: int, command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - our own programs
        [*plan.prefix, *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd="/",
        pass_fds=[lock],
        start_new_session=True,
        user=plan.uid,
        group=plan.gid,
        extra_groups=None if plan.uid is None else [],
        preexec_fn=_die_with(os.getpid()),
    )


def _die_with(parent: int) -> Callable[[], None]:
    """Return what makes the calling process end (by a fast shutdown) when its parent does."""
    prctl = ctypes.CDLL(None).prctl

    # Safe in spite of threads being unsafe between fork and exec: this process has only one yet.
    def arrange() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGINT, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return arrange


def _sweep(plan: Plan) -> None:
    """Remove what a killed server left behind; server.lock says that none of it lives.

    A server that somebody started by hand does not know the lock. It is told by its working folder,
    and PostgreSQL itself then refuses to start a second one.
    """
    pid_file = Path("data/postmaster.pid")
    try:
        pid = int(pid_file.read_text().split("\n")[0])
        by_hand = Path(f"/proc/{pid}/cwd").readlink() == Path("data").absolute()
    except (OSError, ValueError):
        by_hand = False
    if not by_hand:
        pid_file.unlink(missing_ok=True)
        for name in Path(plan.sockets).glob(".s.PGSQL.*"):
            name.unlink()


def _keep_log(server: "subprocess.Popen[bytes]") -> None:
    """Write what postgres says to our standard output, the log, and keep that bounded."""
    assert server.stdout is not None
    for line in server.stdout:
        if os.fstat(1).st_size > LOG_LIMIT:
            os.ftruncate(1, 0)
        os.write(1, line)


def _stop_when_unused(server: "subprocess.Popen[bytes]") -> None:
    users = os.open("users.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    fcntl.flock(users, fcntl.LOCK_EX)
    for number, timeout in STOP_TIMEOUTS.items():
        server.send_signal(number)
        deadline = time.monotonic() + timeout
        while server.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)


def _remove_sockets(folder: Path) -> None:
    with contextlib.suppress(OSError):
        for name in folder.glob(".s.PGSQL.*"):
            name.unlink()
        folder.rmdir()


if __name__ == "__main__":
    main(sys.argv)

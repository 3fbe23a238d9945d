"""Joining a server that runs, or starting it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.pq import PGconn, Ping

from pgbus.embedded import guardian
from pgbus.embedded.home import Rooms
from pgbus.embedded.identity import Identity
from pgbus.embedded.lock import FileLock, is_held
from pgbus.embedded.postgres import major_version
from pgbus.errors import ConfigurationError, StoreError

_PAUSE = 0.02
_CONNECT_TIMEOUT = 3
# How long a server without a guardian may take to shut down, and orphans of a killed one to notice.
_SHUTDOWN_GRACE = 20.0
_ORPHAN_GRACE = 2.0
# The server outlives the process that starts it, and needs none of its secrets.
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "TZ")
_TAIL = 20
_LITTLE_SPACE = 100


class Cluster:
    """The server of one folder, as any process sees it. Keeps no state of its own."""

    def __init__(self, rooms: Rooms, identity: Identity) -> None:
        self._rooms = rooms
        self._identity = identity

    def ensure(self, deadline: float) -> str:
        """Return the connection string of the server, which is started unless it runs.

        Only a process that holds ``users.lock`` may call this: the server would stop at once.

        Raises:
            StoreError: it could not be started, or did not answer before ``deadline`` (monotonic).
        """
        try:
            conninfo = self._answering()
            return conninfo if conninfo is not None else self._start(deadline)
        except OSError as error:
            raise StoreError(
                f"cannot start the embedded PostgreSQL in {self._rooms.folder}: {error}"
            ) from error

    def _start(self, deadline: float) -> str:
        start = FileLock(self._rooms.start)
        if not start.take(deadline):
            raise StoreError(
                f"another process is still starting the PostgreSQL in {self._rooms.folder}"
            )
        try:
            return self._start_alone(deadline)
        finally:
            start.release()

    def _start_alone(self, deadline: float) -> str:
        since = None
        # One more than needed: the first may be killed by what killed the last server.
        attempts = 2
        while time.monotonic() < deadline:
            conninfo = self._answering()
            if conninfo is not None:
                return conninfo
            if is_held(self._rooms.guardian):
                time.sleep(_PAUSE)
            elif since is not None and not attempts:
                raise StoreError(self._failure("could not be started", since))
            else:
                self._check_data()
                self._see_off_the_last(deadline)
                since = self._spawn(deadline)
                attempts -= 1
        raise StoreError(self._failure("did not answer in time", since))

    def _answering(self) -> str | None:
        """Return the connection string if the server answers and somebody looks after it."""
        owner, _ = self._identity.owner()
        sockets = self._rooms.sockets(owner)
        if sockets is None or not is_held(self._rooms.guardian):
            return None
        conninfo = make_conninfo(
            host=str(sockets), hostaddr="", port=5432, user="postgres", dbname="postgres"
        )
        return conninfo if _answers(conninfo) else None

    def _check_data(self) -> None:
        data = self._rooms.data
        if not data.exists():
            return
        try:
            version = (data / "PG_VERSION").read_text(encoding="ascii").strip()
        except FileNotFoundError as error:
            raise StoreError(
                f"{data} is not a PostgreSQL data folder: move it away, and a new one is made"
            ) from error
        ours = major_version(self._identity.programs())
        if version != ours:
            raise StoreError(
                f"{data} was made by PostgreSQL {version}, and the embedded one is {ours}: "
                f"move the data with the pg_dump of PostgreSQL {version}, "
                "or move the folder away to begin with an empty one"
            )

    def _see_off_the_last(self, deadline: float) -> None:
        """Wait until no process of an earlier server lives; end those that do not go.

        A server whose guardian was killed is shutting down. The backends of a killed postmaster go
        when they notice. Starting beside either would corrupt the data.
        """
        grace = time.monotonic() + _ORPHAN_GRACE
        patience = time.monotonic() + _SHUTDOWN_GRACE
        while is_held(self._rooms.server):
            now = time.monotonic()
            if now > deadline:
                raise StoreError(
                    f"processes of an earlier server still use {self._rooms.data} and do not end"
                )
            if now > grace:
                left = _processes(self._rooms)
                if now > patience or _postmaster(self._rooms.data) not in left:
                    for pid in left:
                        _kill(pid)
            time.sleep(_PAUSE)

    def _spawn(self, deadline: float) -> int:
        """Start a guardian, and return where in the log its words begin."""
        # In a frozen program sys.executable is the program itself, which would start once more.
        if not sys.executable or getattr(sys, "frozen", False):
            raise ConfigurationError(
                "the embedded PostgreSQL needs a Python interpreter to look after it, and "
                "sys.executable names none: set $PGBUS_DSN to a server of your own"
            )
        uid, gid = self._identity.owner()
        another = uid != os.geteuid()
        plan = guardian.Plan(
            folder=str(self._rooms.folder),
            programs=str(self._identity.programs()),
            sockets=str(self._rooms.make_sockets(uid, gid)),
            prefix=self._identity.prefix(),
            uid=uid if another else None,
            gid=gid if another else None,
        )
        script = Path(guardian.__file__)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        log = os.open(self._rooms.log, flags, 0o600)
        try:
            if os.fstat(log).st_size > guardian.LOG_LIMIT:
                os.ftruncate(log, 0)
            since = os.fstat(log).st_size
            subprocess.run(  # noqa: S603 - our own script
                [sys.executable, "-I", "-S", script, json.dumps(plan)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
                timeout=max(1.0, deadline - time.monotonic()),
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise StoreError(self._failure("could not be started", since)) from error
        finally:
            os.close(log)
        return since

    def _failure(self, what: str, since: int | None) -> str:
        free = shutil.disk_usage(self._rooms.folder).free // 1024**2
        hint = f" (its disk has {free} MB left)" if free < _LITTLE_SPACE else ""
        # Older words of the log may quote statements, and so payloads.
        said = f" is {self._rooms.log}" if since is None else f" says:\n{self._tail(since)}"
        return f"the embedded PostgreSQL in {self._rooms.folder} {what}{hint}; its log{said}"

    def _tail(self, since: int) -> str:
        with self._rooms.log.open("rb") as file:
            file.seek(min(since, self._rooms.log.stat().st_size))
            lines = file.read(guardian.LOG_LIMIT).decode(errors="replace").splitlines()
        return "\n".join(lines[-_TAIL:]) or "(nothing)"


def _answers(conninfo: str) -> bool:
    try:
        psycopg.connect(conninfo, connect_timeout=_CONNECT_TIMEOUT).close()
    except psycopg.OperationalError as error:
        # It answered, if only to refuse: ping tells "too many clients" from "starting up". Not
        # asked first, because it would block all threads while a stopped server says nothing.
        return "FATAL" in str(error) and PGconn.ping(conninfo.encode()) == Ping.OK
    return True


def _processes(rooms: Rooms) -> list[int]:
    """Return a server's processes: they work in its data folder and have its lock file open."""
    lock = rooms.server.stat()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == rooms.data and any(
                (status := file.stat()).st_ino == lock.st_ino and status.st_dev == lock.st_dev
                for file in (process / "fd").iterdir()
            ):
                found.append(int(process.name))
        except OSError:  # it is gone, a zombie, or somebody else's
            continue
    return found


def _postmaster(data: Path) -> int | None:
    try:
        return int((data / "postmaster.pid").read_text(encoding="utf-8").split("\n")[0])
    except (OSError, ValueError):
        return None


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return

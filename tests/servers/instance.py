"""A throw-away PostgreSQL cluster, run from a folder of binaries.

    new --start()--> running --stop()--> stopped --start()--> running …
                     running --kill9()-> stopped (the data as the crash left it)
    any --close()--> gone (the folder is removed)

``postgres`` is a direct child of this process, so that a test can signal it and see it end. It
listens on a socket in a folder of mode 0700 and nowhere else, which is why ``trust`` is safe there:
only this user (and root) gets that far. A path over 107 bytes cannot hold a socket, hence a short
temporary folder. On TCP, which any local user reaches, it asks for a password.

The data lie in memory where there is room: a fresh database for each test is hundreds of new files,
which took 90 ms on a disk (fsync off) and 13 ms in /dev/shm.
"""

import contextlib
import functools
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from tests.servers.account import Account, account_for
from tests.servers.server import NoServerError, Server

START_TIMEOUT = 30.0
STOP_TIMEOUT = 20.0
LONGEST_SOCKET_PATH = 107
MEMORY = Path("/dev/shm")
MEMORY_WANTED = 2 << 30  # bytes free; Docker's default of 64 MB would not hold one cluster

# Lives as long as this process holds the other end of its input. Afterwards, however this process
# ended (a kill -9, the hard timeout of a test), it ends the server and removes the folder.
WATCHER = """
read -r _
pid=$(head -n 1 "$2/postmaster.pid" 2> /dev/null) && kill -QUIT "$pid" 2> /dev/null && sleep 1
rm -rf "$1" "$2"
"""


class PostgresInstance(Server):
    """A cluster of our own that a test may stop, kill and start again."""

    def __init__(
        self,
        bin_dir: Path,
        *,
        settings: Mapping[str, str | int] | None = None,
        tcp: bool = False,
        durable: bool = False,
    ) -> None:
        """``durable``: on disk and with fsync, for tests of what survives; else it is fast."""
        self.bin_dir: Path = bin_dir
        self.port = free_port() if tcp else 5432
        self._tcp = tcp
        self._durable = durable
        self._password = secrets.token_urlsafe(12)
        self._settings: dict[str, str | int] = {
            "listen_addresses": "127.0.0.1" if tcp else "",
            "port": self.port,
            "max_connections": 200,
            "shared_buffers": "64MB",
            "max_wal_size": "256MB",
            "timezone": "UTC",
            **({} if durable else {"fsync": "off", "full_page_writes": "off"}),
            **(settings or {}),
        }
        self._folder: Path | None = None
        self._data: Path | None = None
        self._account: Account | None = None
        self._watcher: subprocess.Popen[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    # Where things are

    @property
    def folder(self) -> Path:
        """The folder with the socket and the log, and on disk the data."""
        if self._folder is None:
            raise RuntimeError("the cluster has not been started")
        return self._folder

    @property
    def data(self) -> Path:
        if self._data is None:
            raise RuntimeError("the cluster has not been started")
        return self._data

    @property
    def log_file(self) -> Path:
        return self.folder / "log"

    @property
    def pid(self) -> int:
        """The process id of the postmaster."""
        if self._process is None:
            raise RuntimeError("the server is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def dsn(self, dbname: str = "postgres") -> str:
        if self._tcp:
            return make_conninfo(
                host="127.0.0.1",
                port=self.port,
                user="postgres",
                password=self._password,
                dbname=dbname,
            )
        return make_conninfo(host=str(self.folder), port=self.port, user="postgres", dbname=dbname)

    @functools.cached_property
    def _copying(self) -> sql.SQL:
        # Through the log, page by page, it takes four times as long where nothing is flushed.
        return sql.SQL("" if self._durable or self.major < 15 else "STRATEGY FILE_COPY")

    # Its life

    def start(self) -> None:
        """Start the server (the first time: create the cluster) and wait until it answers."""
        if self.running:
            return
        account = self._account or self._create()
        command = account.command("postgres", "-D", str(self.data), "-k", str(self.folder))
        for name, value in self._settings.items():
            command += ["-c", f"{name}={value}"]
        deadline = time.monotonic() + START_TIMEOUT
        while not self._answers(account, command, deadline):
            # After a kill -9 the dead postmaster's children hold its shared memory a moment longer.
            if time.monotonic() > deadline or "shared memory block" not in self._log_tail():
                raise NoServerError(f"PostgreSQL did not start:\n{self._log_tail()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Shut down cleanly, disconnecting everybody; the data stays."""
        self._end(signal.SIGINT)

    def kill9(self) -> None:
        """Kill the postmaster as the kernel would; the data stays as the crash left it.

        Its orphaned backends end by themselves, and may answer a query or two before they do.
        """
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        self.stop()
        self.start()

    def close(self) -> None:
        """Stop and remove everything."""
        self.stop()
        for folder in (self._folder, self._data):
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
        if self._watcher is not None:
            # Killed and not just released: a forked child of a test may hold its input, too.
            self._watcher.kill()
            self._watcher.communicate()
        self._folder = self._data = self._account = self._watcher = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # How

    def _create(self) -> Account:
        folder = self._folder = short_temporary_folder()
        data = self._data = (None if self._durable else folder_in_memory()) or folder / "data"
        data.mkdir(mode=0o700, exist_ok=True)
        self._watcher = subprocess.Popen(
            ["/bin/sh", "-c", WATCHER, "watcher", str(folder), str(data)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        account = account_for(self.bin_dir, folder)
        account.give(folder)
        account.give(data)
        self._fill(account, folder, data)
        self._account = account
        return account

    def _fill(self, account: Account, folder: Path, data: Path) -> None:
        """Make the cluster's data."""
        password_file = folder / "password"
        password_file.write_text(self._password)
        account.give(password_file)
        self._run(
            account,
            "initdb",
            f"--pgdata={data}",
            "--username=postgres",
            f"--pwfile={password_file}",
            "--auth-local=trust",
            "--auth-host=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
        )

    def _run(self, account: Account, program: str, *arguments: str) -> None:
        """Run a program of PostgreSQL to its end."""
        made = subprocess.run(
            account.command(program, *arguments),
            cwd=self.folder,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            **account.options,
        )
        if made.returncode != 0:
            raise NoServerError(f"{program} failed:\n{made.stdout}")

    def _answers(self, account: Account, command: list[str], deadline: float) -> bool:
        """Start the postmaster; False if it ends, or the deadline passes, before it answers."""
        with self.log_file.open("ab") as log:
            process = self._process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C in the terminal is for the tests alone
                **account.options,
            )
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(self.dsn(), connect_timeout=5).close()
                return True
            time.sleep(0.01)
        self.kill9()
        return False

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _log_tail(self) -> str:
        return self.log_file.read_text(errors="replace")[-2000:]


def short_temporary_folder() -> Path:
    """Make a folder of mode 0700 whose path leaves room for the name of a socket."""
    folder = tempfile.mkdtemp(prefix="pgbus-test-")
    if len(f"{folder}/.s.PGSQL.65535") > LONGEST_SOCKET_PATH:
        Path(folder).rmdir()
        folder = tempfile.mkdtemp(prefix="pgbus-test-", dir="/tmp")
    return Path(folder)


def folder_in_memory() -> Path | None:
    """Make a folder of mode 0700 in memory, if this machine has enough of it."""
    if not os.access(MEMORY, os.W_OK) or shutil.disk_usage(MEMORY).free < MEMORY_WANTED:
        return None
    return Path(tempfile.mkdtemp(prefix="pgbus-test-", dir=MEMORY))


def environment() -> dict[str, str]:
    """The environment without what would steer PostgreSQL elsewhere, and with English messages."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**kept, "LC_ALL": "C"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

"""The PostgreSQL of a run: a durable cluster of its own on a real disk, or the one of ``--dsn``."""

import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgbus import Bus
from pgbus.embedded import EmbeddedServer

CACHE = Path(__file__).resolve().parents[1] / ".cache"
"""Where clusters are made by default: a temporary folder is memory on many machines."""
SHUTDOWN = 30.0
SETTINGS = (
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "wal_sync_method",
    "shared_buffers",
    "max_wal_size",
)


class Server:
    """Where databases are made, each for one contender and dropped after use.

    Parameters:
        dsn: of a server on which databases may be created; ``None`` for a cluster of our own, with
            PostgreSQL's default settings.
        folder: where the cluster of our own lies.
    """

    def __init__(self, dsn: str | None = None, folder: Path = CACHE) -> None:
        self._dsn = dsn
        self._parent = folder
        self.folder: Path | None = None
        self._embedded: EmbeddedServer | None = None
        self._template: str | None = None

    def __enter__(self) -> Self:
        if self._dsn is None:
            self._parent.mkdir(parents=True, exist_ok=True)
            self.folder = Path(tempfile.mkdtemp(prefix="bench-", dir=self._parent))
            self._embedded = EmbeddedServer(self.folder / "home")
            self._dsn = self._embedded.dsn()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._template is not None:
            self.drop(self._template)
        if self._embedded is not None and self.folder is not None:
            self._embedded.leave()
            _remove(self.folder)

    @property
    def dsn(self) -> str:
        """The connection string of the server itself."""
        if self._dsn is None:
            raise RuntimeError("the server has not been started")
        return self._dsn

    def connect(self, dsn: str | None = None) -> "psycopg.Connection[tuple[Any, ...]]":
        """Open a connection in autocommit."""
        return psycopg.connect(dsn or self.dsn, autocommit=True)

    def create(self, template: str | None = None) -> str:
        """Create a database, empty or as a copy of ``template`` (a DSN); returns its DSN."""
        name = f"pgbus_bench_{secrets.token_hex(4)}"
        source = "template0" if template is None else str(conninfo_to_dict(template)["dbname"])
        with self.connect() as connection:
            connection.execute(
                sql.SQL("create database {} template {}").format(
                    sql.Identifier(name), sql.Identifier(source)
                )
            )
        return make_conninfo(self.dsn, dbname=name)

    def drop(self, dsn: str) -> None:
        """Drop a database that :meth:`create` made."""
        name = str(conninfo_to_dict(dsn)["dbname"])
        with self.connect() as connection:
            connection.execute(
                sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name))
            )

    def installed(self) -> str:
        """Create a database with pgbus installed; returns its DSN."""
        if self._template is None:
            self._template = self.create()
            with Bus(self._template) as bus:
                bus.install()
        return self.create(self._template)

    @contextmanager
    def database(self) -> Iterator[str]:
        """Lend a database with pgbus installed for the length of a block."""
        dsn = self.installed()
        try:
            yield dsn
        finally:
            self.drop(dsn)

    def describe(self) -> dict[str, str]:
        """Return the version and the settings that decide what a commit costs."""
        with self.connect() as connection:
            found = {"PostgreSQL": str(connection.info.parameter_status("server_version"))}
            for name in SETTINGS:
                row = connection.execute("select current_setting(%s)", [name]).fetchone()
                found[name] = str(row[0]) if row else "?"
        return found


def configure(dsn: str, **settings: str) -> None:
    """Have sessions of a database that begin from now on use other settings.

    Raises:
        psycopg.errors.InsufficientPrivilege: only a superuser may change one of them.
    """
    name = sql.Identifier(str(conninfo_to_dict(dsn)["dbname"]))
    with psycopg.connect(dsn, autocommit=True) as connection:
        for setting, value in settings.items():
            connection.execute(
                sql.SQL("alter database {} set {} = {}").format(
                    name, sql.Identifier(setting), sql.Literal(value)
                )
            )


def _remove(folder: Path) -> None:
    """Remove a cluster whose server is shutting down, and writes its last files meanwhile."""
    deadline = time.monotonic() + SHUTDOWN
    while folder.exists() and time.monotonic() < deadline:
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.05)

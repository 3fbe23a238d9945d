"""The server of a run, the ways to it that fail, and what its database holds."""

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg

from pgbus import Bus
from tests.proxy import FaultProxy
from tests.servers import PostgresInstance
from tests.servers.providers import embedded_bin_dir
from tests.torture import audit, mutants
from tests.torture.audit import Connection, Lease
from tests.torture.behaviour import (
    BATCH,
    BULK,
    DEED,
    FOLLOWED,
    LATE,
    LEDGER,
    PARK,
    PLAIN,
    WORK,
    Staff,
)
from tests.torture.history import FOLLOW, History
from tests.torture.records import Declared, Log, now, read

TOPICS = {
    PLAIN: [WORK, DEED],
    LEDGER: [DEED],
    FOLLOW: [FOLLOWED],
    BATCH: [WORK],
    BULK: [DEED],
    PARK: [DEED],
    LATE: [DEED],
}
PORTION = 20_000_000
"""Bytes of the log."""
TRANSACTIONAL = (LEDGER, FOLLOW, BULK)


class Stage:
    """Holds one server and its database for the length of a run."""

    def __init__(self, *, bin_dir: Path | None, lease: float, mutant: str | None) -> None:
        self.lease = lease
        self.folder = Path(tempfile.mkdtemp(prefix="pgbus-torture-"))
        self.log_file = self.folder / "log"
        self.log = Log(self.log_file)
        self.dam = self.folder / "dam"
        self.mended = self.folder / "mended"
        self.mended.mkdir()
        self.server = PostgresInstance(bin_dir or embedded_bin_dir())
        self._mutant = mutant
        self._open = ExitStack()
        self.dsn = ""
        self.workers_proxy: FaultProxy
        self.publishers_proxy: FaultProxy

    def __enter__(self) -> Self:
        with ExitStack() as opening:
            opening.callback(shutil.rmtree, self.folder, ignore_errors=True)
            opening.callback(self.log.close)
            opening.enter_context(self.server)
            self.dsn = self.server.create_database()
            self._set_up()
            self.workers_proxy = opening.enter_context(FaultProxy(self.dsn))
            self.publishers_proxy = opening.enter_context(FaultProxy(self.dsn))
            self._open = opening.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._open.close()

    @contextlib.contextmanager
    def connection(self) -> Iterator[Connection]:
        """A connection of our own, past every proxy, in autocommit."""
        connection = psycopg.connect(self.dsn, autocommit=True, connect_timeout=5)
        try:
            yield connection
        finally:
            connection.close()

    def _set_up(self) -> None:
        began = now()
        with self._bus(late=False) as bus, self.connection() as connection:
            bus.install()
            bus.declare()
            mutants.break_sql(connection, self._mutant)
            audit.install(connection)
            for name in TOPICS.keys() - {LATE}:
                self._note(connection, name, began)

    def declare_late(self) -> None:
        """Bind a further subscription to a topic that publishers have long remembered."""
        began = now()
        with self._bus(late=True) as bus, self.connection() as connection:
            bus.declare()
            self._note(connection, LATE, began)

    def _bus(self, *, late: bool) -> Bus:
        bus = Bus(self.dsn, service="torture")
        Staff(self.log, self.lease, self.mended).hire(bus, late=late)
        return bus

    def _note(self, connection: Connection, name: str, began: int) -> None:
        bound = now()
        audit.watch(connection, name)
        transactional, parks = name in TRANSACTIONAL, name == PARK
        self.log.write(Declared(name, TOPICS[name], transactional, began, bound, parks))

    def waiting(self, connection: Connection) -> tuple[int, int]:
        """How many events wait in the queue of most, and how many ever got a number in it."""
        [(count, last)] = connection.execute(
            f"select count(*), (select last_value from pgmq.q_{PLAIN}_msg_id_seq) "
            f"from pgmq.q_{PLAIN}"
        ).fetchall()
        return int(count), int(last)

    def unfinished(self, connection: Connection) -> int:
        """How many events wait anywhere."""
        [(scheduled,)] = connection.execute("select count(*) from pgbus.scheduled").fetchall()
        return len(audit.stored(connection, dead=False)) + int(scheduled)

    def leases_at_rest(self, connection: Connection) -> list[Lease]:
        """What stays leased although there is nothing to handle."""
        deadline = time.monotonic() + 4 * self.lease + 2.0
        while (held := audit.leases(connection)) and time.monotonic() < deadline:
            time.sleep(0.1)
        return held

    def history(self, *, leases: list[Lease], drained: bool) -> History:
        """Write down everything that a verdict rests on; it lasts as long as the stage."""
        with self.connection() as connection:
            rows, effects = audit.write_down(connection, self.folder)
            return History(
                read(self.log_file),
                audit=rows,
                effects=effects,
                letters=audit.stored(connection, dead=True),
                left=audit.stored(connection, dead=False),
                leases=leases,
                drained=drained,
                clock=time.time() - time.monotonic(),
            )

    @property
    def portions(self) -> int:
        """In how many the events are best judged: each takes a few hundred megabytes at most."""
        return 1 + self.log_file.stat().st_size // PORTION

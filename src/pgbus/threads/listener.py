"""The listener owns the LISTEN connection and does nothing but pass wake-ups on.

A notification is a hint: whatever it says, the fetcher looks for itself. Behind a pooler nobody can
listen; then the fetcher's polls find everything, if a little later.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence

from psycopg import sql

from pgbus.threads.link import Backoff, Link, Outage

logger = logging.getLogger(__name__)

SCHEDULED = "pgbus"
"""The channel of scheduled events; a subscription's is ``pgbus_<name>``."""


class Listener:
    """See the module.

    Parameters:
        wake: called with a subscription's name, or ``None`` for scheduled events.
    """

    def __init__(
        self, link: Link, names: Sequence[str], wake: Callable[[str | None], None], outage: Outage
    ) -> None:
        self._link = link
        self._channels: dict[str, str | None] = {f"{SCHEDULED}_{name}": name for name in names}
        self._channels[SCHEDULED] = None
        self._wake = wake
        self._outage = outage
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pgbus-listener", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def stop(self, until: float) -> None:
        """Listen no longer; returns once the thread has ended, or at ``until``, monotonic.

        What outlasts it is an attempt to connect, which ends by itself.
        """
        self._stop.set()
        # Again and again: it may just have opened the next connection.
        while self._thread.is_alive() and (left := until - time.monotonic()) > 0:
            self._link.interrupt()
            self._thread.join(min(0.05, left))

    def _run(self) -> None:
        backoff = Backoff()
        try:
            while not self._stop.is_set():
                try:
                    if self._link.pooled:
                        logger.info(
                            "behind a pooler, so events are looked for once a second: give "
                            "direct_dsn to be woken for them"
                        )
                        return
                    self._listen(backoff)
                except Exception as error:
                    self._link.drop()
                    if self._stop.is_set():
                        return
                    self._outage.report("the listener", error)
                    backoff.wait(self._stop)
        finally:
            self._link.drop()

    def _listen(self, backoff: Backoff) -> None:
        connection = self._link.connection()
        for channel in self._channels:
            connection.execute(sql.SQL("listen {}").format(sql.Identifier(channel)))
        backoff.reset()
        # Whatever was sent while nobody listened went unheard.
        for name in self._channels.values():
            self._wake(name)
        for notification in connection.notifies():
            if self._stop.is_set():
                return
            if notification.channel in self._channels:
                self._wake(self._channels[notification.channel])

"""One call of a handler, and the watchdog that ends those that take too long.

::

    running ──finish()──> over          the worker goes on with the outcome
    running ──abandon()─> abandoned     somebody else settled the event; the worker's thread, when
                                        the handler ever returns, throws its outcome away and ends
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, Literal

from pgbus.core.account import exc_info
from pgbus.errors import ConfigurationError
from pgbus.threads.link import Link

logger = logging.getLogger(__name__)

Reason = Literal["timeout", "shutdown"]
CHECK = 1.0
"""Seconds between two looks for stalled connections."""
PATIENCE = 1.0
"""Seconds that the watchdog gets to end, which may be in a callback of the user's."""


class Call:
    """See the module.

    Parameters:
        timeout: seconds the call may take, or ``None``.
        abandoned: called once, by whoever abandons it, with the reason.
    """

    __slots__ = ("_abandoned", "_end", "deadline", "future", "started_at")

    def __init__(self, timeout: float | None, abandoned: Callable[[Reason], None]) -> None:
        self.started_at = time.monotonic()
        self.deadline = None if timeout is None else self.started_at + timeout
        self.future: Future[Any] | None = None
        self._abandoned = abandoned
        self._end = threading.Lock()  # taken once, by whoever ends the call

    def again(self) -> None:
        """Begin anew; only after :meth:`finish`, for a call without a timeout.

        The watchdog, which may act on what it saw a moment ago, knows nothing of those.
        """
        self.started_at = time.monotonic()
        self._end.release()

    @property
    def ended(self) -> bool:
        """Whether it is over, or was abandoned."""
        return self._end.locked()

    def finish(self) -> bool:
        """End the call; false where it had been abandoned."""
        return self._end.acquire(blocking=False)

    def abandon(self, reason: Reason) -> bool:
        """Give the call up, unless it has ended; true where it was given up now."""
        if not self._end.acquire(blocking=False):
            return False
        try:
            self._abandoned(reason)
        finally:
            if self.future is not None:
                self.future.cancel()
        return True


class Watchdog:
    """One thread that ends calls past their deadline and severs connections that hang.

    Parameters:
        links: the connections.
        tend: called once a second at least, for what could not be done when a call was given up.
    """

    def __init__(self, links: Sequence[Link], tend: Callable[[], None]) -> None:
        self._links = {*links}
        self._tend = tend
        self._changed = threading.Condition()
        self._calls: set[Call] = set()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="pgbus-watchdog", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching; returns once the thread has ended, or after :data:`PATIENCE`.

        What outlasts it is an ``on_error`` callback, told of a call that took too long.
        """
        with self._changed:
            self._stopped = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(PATIENCE)

    def is_here(self) -> bool:
        """Whether the calling thread is this one."""
        return threading.current_thread() is self._thread

    def watch(self, call: Call) -> None:
        """Watch a call that has a deadline."""
        with self._changed:
            self._calls.add(call)
            self._changed.notify()

    def forget(self, call: Call) -> None:
        """Watch a call no longer."""
        with self._changed:
            self._calls.discard(call)

    def guard(self, link: Link) -> None:
        """Look after a further connection."""
        with self._changed:
            self._links.add(link)

    def leave(self, link: Link) -> None:
        """Look after a connection no longer."""
        with self._changed:
            self._links.discard(link)

    def extend(self, call: Call, seconds: float) -> None:
        """Move a call's deadline to ``seconds`` from now.

        Raises:
            ConfigurationError: ``seconds`` is no positive number.
        """
        if not 0 < seconds < float("inf"):
            raise ConfigurationError(f"extend: {seconds} is no positive number of seconds")
        with self._changed:
            if call.deadline is not None:
                call.deadline = time.monotonic() + seconds
                self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._stopped:
                    return
                now = time.monotonic()
                late = [call for call in self._calls if (call.deadline or now + 1) <= now]
                self._calls.difference_update(late)
                if not late:
                    deadlines = [call.deadline for call in self._calls if call.deadline]
                    self._changed.wait(max(0.0, min([now + CHECK, *deadlines]) - now))
                links = [*self._links]
            for call in late:
                _attempt(partial(call.abandon, "timeout"))
            _attempt(self._tend)
            for link in links:
                link.sever_if_stalled(time.monotonic())


def _attempt(duty: Callable[[], object]) -> None:
    """Do a duty of the watchdog; should it fail, for want of threads or memory, others wait."""
    try:
        duty()
    except Exception as error:
        text = "a thread could not be replaced, or a call not be given up"
        logger.critical(text, exc_info=exc_info(error))

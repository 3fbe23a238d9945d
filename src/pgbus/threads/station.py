"""What the workers of a bus share: whom they hand results to, whom they ask."""

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

from pgbus.core.encoding import Encoded
from pgbus.model.envelope import Outgoing
from pgbus.store.query import Operation
from pgbus.store.workers import known_elsewhere
from pgbus.threads.call import Call, Watchdog
from pgbus.threads.context import Context, Incident
from pgbus.threads.delivery import Portion
from pgbus.threads.link import Outage
from pgbus.threads.server import Server
from pgbus.threads.session import Session
from pgbus.threads.versions import Versions

logger = logging.getLogger(__name__)

REMEMBER = 2.0
"""Seconds for which an answer about other workers is remembered."""


class EventLoop:
    """The one event loop thread of a bus, started by the first ``async def`` handler's call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._ending = threading.Event()
        self._stopped = False

    def call(self, coroutine: Coroutine[Any, Any, Any], call: Call) -> None:
        """Run a coroutine on the loop and wait for its end; its exception passes through."""
        try:
            loop = self._running()
        except BaseException:
            coroutine.close()
            raise
        future = asyncio.run_coroutine_threadsafe(_kept(coroutine), loop)
        call.future = future
        if call.ended:  # given up before there was anything to cancel
            future.cancel()
        error = future.result()
        if error is not None:
            raise error

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._stopped:
                raise RuntimeError("the bus has stopped")  # nobody asks any more what became of it
            if self._loop is None:
                self._loop = self._start()
            return self._loop

    def _start(self) -> asyncio.AbstractEventLoop:
        """Start a loop in a thread; called with the lock held.

        Raises:
            RuntimeError: the system has no more threads: the next call tries again.
        """
        loop, ending = asyncio.new_event_loop(), threading.Event()
        thread = threading.Thread(
            target=self._run, args=(loop, ending), name="pgbus-loop", daemon=True
        )
        try:
            thread.start()
        except BaseException:
            loop.close()
            raise
        self._thread, self._ending = thread, ending
        return loop

    @staticmethod
    def _run(loop: asyncio.AbstractEventLoop, ending: threading.Event) -> None:
        asyncio.set_event_loop(loop)
        try:
            while _was_interrupted(loop) and not ending.is_set():
                logger.error("a task of an async handler tried to exit: the others go on")
        finally:
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    def is_here(self) -> bool:
        """Whether the calling thread is this one."""
        return threading.current_thread() is self._thread

    def stop(self, timeout: float) -> None:
        """Cancel what still runs and end the thread, waiting ``timeout`` seconds at most."""
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop, self._stopped = None, True
        if loop is not None and thread is not None:
            self._ending.set()
            loop.call_soon_threadsafe(loop.stop)
            thread.join(timeout)


def _was_interrupted(loop: asyncio.AbstractEventLoop) -> bool:
    """Run a loop until it is stopped, or a task that a handler has started would end it."""
    try:
        loop.run_forever()
    except (SystemExit, KeyboardInterrupt):
        return True
    return False


async def _kept(coroutine: Coroutine[Any, Any, Any]) -> BaseException | None:
    """Run a coroutine, and return what would end the loop with everything else that it runs."""
    try:
        await coroutine
    except (SystemExit, KeyboardInterrupt) as error:
        return error
    return None


class Station:
    """See the module.

    Parameters:
        put: hands a portion to the settler.
        released: tells the fetcher that there may be room for more.
        expect: tells it in how many seconds a retry of a subscription falls due.
        encode: makes an event that a handler publishes ready to be stored.
        ask: runs an operation on a connection of the bus.
        report: tells ``bus.on_error`` callbacks of an incident.
        publish: makes the operation that stores what a transactional handler published.
        strict: whether publishing fails where a topic leads nowhere.
        versions: makes something of events in versions that a handler has no type for.
    """

    def __init__(
        self,
        *,
        put: Callable[[Portion], None],
        released: Callable[[], None],
        expect: Callable[[str, float], None],
        encode: Callable[[Outgoing, Context], Encoded],
        ask: Callable[[Callable[[], Operation[bool]]], bool],
        report: Callable[[Incident], None],
        publish: Callable[[list[Encoded]], Operation[object]],
        strict: bool,
        versions: Versions,
        server: Server,
        watchdog: Watchdog,
        outage: Outage,
    ) -> None:
        self.put = put
        self.released = released
        self.expect = expect
        self.encode = encode
        self.report = report
        self.publish = publish
        self.strict = strict
        self.versions = versions
        self.server = server
        self.watchdog = watchdog
        self.outage = outage
        self.loop = EventLoop()
        self._ask = ask
        # Of what somebody knows, when that was asked.
        self._known: dict[tuple[int, str], float] = {}

    def known_elsewhere(self, subscription: int, session: Session, kind: str) -> bool:
        """Return whether another live worker can decode ``topic@version``, or ``topic@``.

        Raises:
            psycopg.Error, PgbusError: the database could not be asked.
        """
        now = time.monotonic()
        asked_at = self._known.pop((subscription, kind), -math.inf)
        if now - asked_at > REMEMBER:
            if not self._ask(lambda: known_elsewhere(subscription, session.id, kind)):
                return False
            asked_at = now
        self._known[subscription, kind] = asked_at
        return True

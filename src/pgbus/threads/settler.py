"""The settler: one thread and one connection that acknowledge for all workers of a bus.

What the workers hand in while one statement is under way goes out with the next: batches grow with
the load and cost no waiting when there is none. A settlement that was sent is sent again until the
database answered; the fence makes that harmless, and so does, where a lane stays leased, that what
was handled is gone.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial

import psycopg

from pgbus.errors import LeaseLost, PgbusError, Unroutable
from pgbus.store.publish import publish
from pgbus.store.query import run
from pgbus.store.routes import Routes
from pgbus.store.settle import LaneSettlement, settle
from pgbus.threads.delivery import Portion
from pgbus.threads.link import INTERRUPTED, Backoff, Link, Outage, as_store_error

logger = logging.getLogger(__name__)

MOST = 5_000
"""Portions in one statement."""
LATER = ("53", "55", "57", "58")
"""Classes of errors that pass: no disk, memory or connections; a lock; an operator's doing; the
server's own system."""


class Settler:
    """See the module.

    Parameters:
        routes, strict, window: how ``context.publish`` publishes.
        settled: called after each batch; the fetcher may find new room.
        expect: called with a subscription's name and the seconds until a retry falls due.
    """

    def __init__(
        self,
        link: Link,
        routes: Routes,
        *,
        strict: bool,
        window: timedelta,
        outage: Outage,
        settled: Callable[[], None],
        expect: Callable[[str, float], None],
    ) -> None:
        self._link = link
        self._routes = routes
        self._strict = strict
        self._window = window
        self._outage = outage
        self._settled = settled
        self._expect = expect
        self._inbox: queue.SimpleQueue[Portion | None] = queue.SimpleQueue()
        self._abort = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pgbus-settler", daemon=True)

    def start(self) -> None:
        """Begin to settle."""
        self._thread.start()

    def is_here(self) -> bool:
        """Whether the calling thread is this one."""
        return threading.current_thread() is self._thread

    def put(self, portion: Portion) -> None:
        """Hand in a portion; called from any thread."""
        self._inbox.put(portion)

    def stop(self, until: float) -> bool:
        """Settle what was handed in, and end; false where there was no time for it.

        What is left at ``until`` (of the monotonic clock) is as if the process had died here:
        others take over after the lease.
        """
        self._inbox.put(None)
        if self._thread.is_alive():
            self._thread.join(max(0.0, until - time.monotonic()))
        if self._thread.is_alive():
            self._abort.set()
            self._link.interrupt()
            self._thread.join(INTERRUPTED)
            return False
        return True

    def _run(self) -> None:
        try:
            while True:
                batch, last = self._collect()
                for group in _groups(batch):
                    self._settle_whatever_happens(group)
                if batch:
                    self._settled()
                if last or self._abort.is_set():
                    return
        finally:
            self._link.drop()

    def _collect(self) -> tuple[list[Portion], bool]:
        batch: list[Portion] = []
        first = self._inbox.get()
        while first is not None:
            batch.append(first)
            if len(batch) >= MOST:
                return batch, False
            try:
                first = self._inbox.get_nowait()
            except queue.Empty:
                return batch, False
        return batch, True

    def _settle_whatever_happens(self, group: "Sequence[Portion]") -> None:
        """Settle, and begin again after what nobody foresaw, such as a want of memory.

        What is not settled would stay leased for as long as this worker lives.
        """
        backoff = Backoff()
        sent = False
        while not self._abort.is_set():
            try:
                self._settle(group, sent=sent)
            except Exception as error:
                sent = True
                self._outage.report("the settler", error)
                backoff.wait(self._abort)
            else:
                return

    def _settle(self, group: "Sequence[Portion]", *, sent: bool = False) -> None:
        """Settle lanes of one subscription and session, trying until the database answers.

        Parameters:
            sent: it may have been settled before, so that a lane that is gone says nothing.
        """
        backoff = Backoff()
        while not self._abort.is_set():
            store = partial(self._store, group=group, repeated=sent)
            try:
                owned = self._link.do(store)
            except Unroutable as unroutable:
                self._settle_apart(group, unroutable, sent=sent)
                return
            except psycopg.Error as error:
                lost_connection = not self._link.connected
                sent = sent or lost_connection
                retriable = lost_connection or isinstance(
                    error, psycopg.errors.DeadlockDetected | psycopg.errors.SerializationFailure
                )
                if not retriable and len(group) > 1:
                    for one in group:
                        self._settle([one], sent=sent)
                    return
                if not retriable and not _must_wait(group[0], error):
                    self._give_up(group[0], error)
                    return
                self._outage.report("the settler", error)
                backoff.wait(self._abort)
            except PgbusError as error:
                self._outage.report("the settler", error)
                backoff.wait(self._abort)
            else:
                self._outage.over()
                self._finish(group, owned, sent=sent)
                return

    def _store(
        self,
        connection: "psycopg.Connection[tuple[object, ...]]",
        group: "Sequence[Portion]",
        *,
        repeated: bool,
    ) -> set[int]:
        for one in group:
            if one.hold.refused:
                _withdraw(one)
        name, worker = group[0].subscription.name, group[0].hold.session.id
        settlement = settle(name, worker, _merge(group), repeated=repeated)
        if not any(one.outgoing for one in group):
            return run(connection, settlement)
        with connection.transaction():
            owned = run(connection, settlement)
            outgoing = [event for one in group if one.lane.lane in owned for event in one.outgoing]
            run(
                connection,
                publish(outgoing, self._routes, strict=self._strict, window=self._window),
            )
        return owned

    def _settle_apart(
        self, group: "Sequence[Portion]", unroutable: Unroutable, *, sent: bool
    ) -> None:
        """Find the one whose publishing leads nowhere, so that it fails alone."""
        if len(group) > 1:
            for one in group:
                self._settle([one], sent=sent)
            return
        [one] = group
        assert one.answering is not None
        one.lane = one.answering.unroutable(one, unroutable)
        one.outgoing = []
        self._settle([one], sent=sent)

    def _give_up(self, one: Portion, error: psycopg.Error) -> None:
        """Let go of a lane whose settlement the database refuses: its events come again.

        A worker that still handles some lets go itself, once it has heard: until then nobody else
        may get the key.
        """
        if not _says_something(one):
            one.subscription.settled([(one.hold, 0, True)])  # for as long as this worker lives
        else:
            one.hold.refused = True
            if one.lane.release:
                self._settle([one])
        logger.error(  # last, because a filter of the user's may raise
            "subscription %s: an event cannot be settled and is delivered again: %s",
            one.subscription.name,
            as_store_error(error),
        )

    def _finish(self, group: "Sequence[Portion]", owned: set[int], *, sent: bool) -> None:
        for one in group:
            if one.lane.lane not in owned and not sent and not one.hold.abandoned:
                self._fence(one)
            if one.lane.again is not None:
                self._expect(one.subscription.name, one.lane.again[1])
        subscription = group[0].subscription
        subscription.settled([(one.hold, one.events, one.lane.release) for one in group])

    def _fence(self, one: Portion) -> None:
        first = not one.hold.fenced
        one.hold.fenced = True
        touched = one.lane.done or one.lane.dead or one.lane.again
        if first and touched and one.answering is not None:
            error = LeaseLost(
                f"subscription {one.subscription.name}: the lease was lost before the "
                "acknowledgement; nothing was changed, and the event is delivered again"
            )
            one.answering.fenced(one, error)


def _withdraw(one: Portion) -> None:
    """Leave of a settlement only whether the lane is let go."""
    one.lane = LaneSettlement(one.lane.lane, one.lane.token, one.lane.release)
    one.outgoing = []
    one.events = 0


def _says_something(one: Portion) -> bool:
    """Whether it is more than to let go of a lane."""
    return bool(one.lane.done or one.lane.dead or one.lane.again is not None)


def _must_wait(one: Portion, error: psycopg.Error) -> bool:
    """Whether to go on trying: there is nothing left to leave out, and it may work later.

    Given up for good, the key would be stuck for as long as this worker lives.
    """
    return not _says_something(one) and (error.sqlstate or "").startswith(LATER)


def _groups(batch: "Sequence[Portion]") -> "list[list[Portion]]":
    groups: dict[tuple[int, int], list[Portion]] = {}
    for one in batch:
        groups.setdefault((one.subscription.number, one.hold.session.id), []).append(one)
    return list(groups.values())


def _merge(group: "Sequence[Portion]") -> list[LaneSettlement]:
    """Join what was handed in of the same lease; the last word decides whether it is let go."""
    merged: dict[tuple[int, int], LaneSettlement] = {}
    for one in group:
        lane = one.lane
        key = (lane.lane, lane.token)
        known = merged.get(key)
        if known is None:
            merged[key] = lane
            continue
        merged[key] = LaneSettlement(
            lane.lane,
            lane.token,
            release=known.release or lane.release,
            done=known.done + lane.done,
            again=lane.again or known.again,
            dead=known.dead + lane.dead,
            troubled=known.troubled or lane.troubled,
        )
    return list(merged.values())

"""The keeper sends the heartbeats, on a connection of its own that no work can starve.

It also reaps workers that fell silent, and gives back what takes won whose replies were lost. After
an outage in which its own lease ran out, it spares the others for one more: unless the server was
restarted, which the database knows of, the first to come back would declare dead all who live.
Heartbeats outlive the work: it stops when all that is done is settled.
"""

import logging
import math
import threading
import time
from collections.abc import Callable
from datetime import datetime

import psycopg
from psycopg.rows import TupleRow

from pgbus.store import workers
from pgbus.store.query import Operation, run
from pgbus.threads.link import Backoff, Link, Outage, join
from pgbus.threads.session import Session, now

logger = logging.getLogger(__name__)

BEATS = 3
"""Heartbeats in one lease."""
HOUSEKEEPING = 60.0
"""Seconds between two rounds of forgetting published ids, and of looking for old transactions."""
OLD = 300.0
"""Seconds that a transaction may be open without a warning."""


class Keeper:
    """See the module.

    Parameters:
        lease: seconds that the worker may be silent.
        register: makes the operation that registers a new session, for one transaction.
        reborn: called after a session was lost and another has taken its place.

    ``session`` is the current one: the keeper writes it, everyone reads it.
    """

    def __init__(
        self,
        link: Link,
        *,
        lease: float,
        register: Callable[[Session], Operation[None]],
        reborn: Callable[[], None],
        outage: Outage,
    ) -> None:
        self.session = Session(lease)
        self._link = link
        self._lease = lease
        self._register = register
        self._reborn = reborn
        self._outage = outage
        self._stop = threading.Event()
        self._tidied_at = time.monotonic()
        self._untidy = False
        # Until when others, who could not be heard either, may come back before they are reaped.
        self._sparing_until = -math.inf
        self._warned_of: tuple[int, datetime] | None = None
        self._thread = threading.Thread(target=self._run, name="pgbus-keeper", daemon=True)

    def start(self) -> None:
        """Register the worker and begin to send heartbeats.

        Raises:
            psycopg.Error, PgbusError: the worker could not be registered.
        """
        try:
            self._begin(self.session)
        except BaseException:
            self._link.drop()
            raise
        try:
            self._thread.start()
        except RuntimeError:  # the system has no more threads
            self._sign_off()
            self._link.drop()
            raise

    def stop(self, until: float) -> None:
        """Send no more, give back every lease, and sign off.

        Returns once the thread has ended, or its link was given up: at ``until``, of the monotonic
        clock.
        """
        self._stop.set()
        if not join(self._thread, self._link, until):
            logger.warning("the database did not hear that this worker stops")

    def _begin(self, session: Session) -> None:
        sent_at = now()
        self._link.do(lambda connection: self._begin_on(connection, session))
        session.renew(sent_at)

    def _begin_on(self, connection: "psycopg.Connection[TupleRow]", session: Session) -> None:
        with connection.transaction():
            run(connection, self._register(session))

    def _run(self) -> None:
        try:
            self._keep()
            self._sign_off()
        finally:
            self._link.drop()

    def _sign_off(self) -> None:
        try:
            self._link.run(lambda: workers.stop(self.session.id))
        except Exception as error:
            # As if the process had died: others take over after the lease.
            self._outage.report("the keeper", error)

    def _keep(self) -> None:
        backoff = Backoff(most=min(1.0, self._lease / (4 * BEATS)))
        while not self._stop.is_set():
            try:
                self._beat()
                self._tend()
            except Exception as error:  # without heartbeats all that is in hand would be lost
                self._outage.report("the keeper", error)
                if backoff.wait(self._stop):
                    return
                continue
            backoff.reset()
            self._outage.over()
            if not self._untidy:
                self._stop.wait(self._lease / BEATS)

    def _beat(self) -> None:
        session = self.session
        sent_at = now()
        late = session.lost
        alive = self._link.run(lambda: workers.heartbeat(session.id))
        if late or session.lost:  # perhaps nobody was heard, and all come back one by one
            self._sparing_until = now() + self._lease
        if alive:
            session.renew(sent_at)
            return
        # Declared dead: every lease is gone. Begin again under a new id.
        session.lose()
        fresh = Session(self._lease)
        self._begin(fresh)
        self.session = fresh
        logger.warning("this worker was silent for longer than its lease and lost its keys")
        self._reborn()

    def _tend(self) -> None:
        if now() >= self._sparing_until:
            self._reap()
        session = self.session
        doubts = session.doubts()
        if doubts:
            self._link.run(lambda: workers.forget(session.id, doubts))
            session.given_back(doubts)
        if self._untidy or time.monotonic() - self._tidied_at > HOUSEKEEPING:
            self._tidied_at = time.monotonic()
            # One batch, and then a heartbeat: no lease outlasts a long backlog. Where one fails,
            # the rest waits for the next round.
            self._untidy = False
            self._untidy = self._link.run(workers.forget_published)
            if not self._untidy:
                self._warn_of_old_transaction()

    def _reap(self) -> None:
        """Declare dead who fell silent."""
        for dead in self._link.run(workers.reap):
            logger.warning(
                "worker %s on %s (process %d) fell silent: %d of its keys are free again",
                dead.service,
                dead.host,
                dead.pid,
                dead.lanes,
            )

    def _warn_of_old_transaction(self) -> None:
        found = self._link.run(lambda: workers.oldest_transaction(OLD))
        if found is not None and (found.pid, found.began) != self._warned_of:
            self._warned_of = found.pid, found.began
            logger.warning(
                "a transaction of %r (process %d of the server) has been open for %.0f s: the rows "
                "of events that are handled meanwhile cannot be removed, and taking gets slower "
                "until it ends",
                found.application,
                found.pid,
                found.seconds,
            )

"""Everything that runs between ``start`` and ``stop``: its parts, and the order of their end.

Stop order: the fetcher takes nothing more; the workers finish what they handle, within the grace;
what was not begun goes back; the settler acknowledges the rest; the keeper's heartbeats outlive all
of this; then the listener and the watchdog.
"""

import logging
import os
import socket
import time
from collections.abc import Callable, Sequence
from datetime import timedelta

from pgbus.core.encoding import Encoded
from pgbus.model.envelope import Outgoing
from pgbus.store import topology, workers
from pgbus.store.query import Operation
from pgbus.store.settle import LaneSettlement
from pgbus.threads.call import Watchdog
from pgbus.threads.context import Context, Incident
from pgbus.threads.contracts import Contracts
from pgbus.threads.crew import Crew
from pgbus.threads.delivery import Portion
from pgbus.threads.fetcher import Fetcher
from pgbus.threads.keeper import Keeper
from pgbus.threads.link import Link, Outage
from pgbus.threads.listener import Listener
from pgbus.threads.pool import Pool
from pgbus.threads.publisher import Publisher
from pgbus.threads.server import Server
from pgbus.threads.session import Session
from pgbus.threads.settler import Settler
from pgbus.threads.station import Station
from pgbus.threads.subscription import Hold, Subscription
from pgbus.threads.versions import Versions

logger = logging.getLogger(__name__)

HANDED_IN, SETTLED, CANCELLED, SIGNED_OFF, ENDED = 0.4, 0.5, 0.6, 0.8, 1.0
"""Seconds after the grace until which workers may hand in what they have handled, the settler may
settle, cancelled coroutines may end, the keeper may sign off, and everything has ended, however
stalled the links are."""
PATIENCE = 1.0
"""Seconds that each of these but the settler gets at most, however much of the grace is left."""


class Engine:
    """The threads of a running bus; started once, stopped once.

    Parameters:
        direct: ``server``, or the way to it past a pooler, for what needs a session of its own.
        subscriptions: declared ones, by their numbers in the database.
        prune: whether bindings that nobody declares any more are removed.
        report: tells ``bus.on_error`` callbacks of an incident.
    """

    def __init__(
        self,
        server: Server,
        direct: Server,
        pool: Pool,
        publisher: Publisher,
        contracts: Contracts,
        subscriptions: Sequence[Subscription],
        *,
        service: str,
        lease: float,
        prune: bool,
        window: timedelta,
        report: Callable[[Incident], None],
    ) -> None:
        self.process = os.getpid()
        self._publisher = publisher
        self._contracts = contracts
        self._subscriptions = subscriptions
        self._service = service
        self._lease = lease
        self._prune = prune
        outage = Outage()
        keeper_link, fetcher_link, listener_link = (
            Link(direct, self._application_name) for _ in range(3)
        )
        settler_link = Link(server, self._application_name)
        self._keeper = Keeper(
            keeper_link,
            lease=lease,
            register=self._register,
            reborn=lambda: self._fetcher.released(),
            outage=outage,
        )
        self._settler = Settler(
            settler_link,
            publisher.routes,
            strict=publisher.strict,
            window=window,
            outage=outage,
            settled=lambda: self._fetcher.released(),
            expect=lambda name, seconds: self._fetcher.expect(name, seconds),
        )
        self._fetcher = Fetcher(
            fetcher_link, subscriptions, lambda: self._keeper.session, self._give_back, outage
        )
        names = [subscription.name for subscription in subscriptions]
        self._listener = Listener(listener_link, names, self._fetcher.wake, outage)
        self._watchdog = Watchdog([keeper_link, fetcher_link, settler_link], self._fill_crews)
        self._station = Station(
            put=self._settler.put,
            released=self._fetcher.released,
            expect=self._fetcher.expect,
            encode=self._encode,
            ask=pool.run,
            report=report,
            publish=publisher.operation,
            strict=publisher.strict,
            versions=Versions(None if contracts.mode == "off" else pool.run),
            server=server,
            watchdog=self._watchdog,
            outage=outage,
        )
        self._crews = [Crew(subscription, self._station) for subscription in subscriptions]

    def _application_name(self) -> str:
        return f"pgbus/{self._keeper.session.id:x}"

    def _register(self, session: Session) -> Operation[None]:
        """Register the worker and bind what it declares, together.

        Bindings are pruned by what registered workers declare: bound before, those of a worker that
        is just starting could be taken away; not bound again, those of one that was declared dead
        would stay away.
        """
        declared = [
            workers.Declaration(
                subscription.number,
                subscription.definition.expansions,
                subscription.definition.types,
                subscription.definition.handler.fallback is not None,
            )
            for subscription in self._subscriptions
        ]
        host = socket.gethostname()
        yield from workers.start(
            session.id, self._service, host, self.process, self._lease, declared
        )
        yield from self._contracts.accept(session.id, self._subscriptions)
        for one in self._subscriptions:
            patterns = one.definition.expansions
            pruned = yield from topology.bind(one.number, patterns, prune=self._prune)
            for pattern in pruned:
                logger.warning("removed binding %s of %s", pattern, one.name)

    def _encode(self, item: Outgoing, context: Context) -> Encoded:
        cause = None if context.id is None else str(context.id)
        return self._publisher.encode(
            item, correlation_id=context.correlation_id or cause, causation_id=cause
        )

    def _give_back(self, subscription: Subscription, hold: Hold, lane: LaneSettlement) -> None:
        self._settler.put(Portion(subscription, hold, lane))

    def _fill_crews(self) -> None:
        for crew in self._crews:
            crew.fill()

    def start(self) -> None:
        """Register the worker and start every thread.

        Whatever it raises, and however far it came, it is to be stopped then.

        Raises:
            psycopg.Error, PgbusError: the worker could not be registered.
            RuntimeError: the system has no more threads.
        """
        self._keeper.start()
        # Before the first handler can say anything.
        logger.info("running: %s", ", ".join(sorted(one.name for one in self._subscriptions)))
        self._watchdog.start()
        self._settler.start()
        for crew in self._crews:
            crew.start()
        self._fetcher.start()
        self._listener.start()

    def is_here(self) -> bool:
        """Whether the calling thread is one of these that runs users' code.

        It runs handlers or ``on_error`` callbacks, and could not wait for its own end.
        """
        return (
            any(crew.is_here() for crew in self._crews)
            or self._station.loop.is_here()
            or self._settler.is_here()
            or self._watchdog.is_here()
        )

    def stop(self, timeout: float) -> None:
        """Drain and end, see the module; ``timeout`` is the handlers' grace in seconds.

        What has not started yet, because a signal's handler calls amid the start, ends as it does.
        """
        deadline = time.monotonic() + timeout
        self._fetcher.stop()
        for crew in self._crews:
            for hold in crew.subscription.close():
                lane = LaneSettlement(hold.chunk.lane, hold.chunk.token, release=True)
                self._give_back(crew.subscription, hold, lane)
        for crew in self._crews:
            crew.join(deadline)
        for crew in self._crews:
            crew.collect(deadline + HANDED_IN)
        self._settler.stop(deadline + SETTLED)
        self._station.loop.stop(_soon(deadline + CANCELLED) - time.monotonic())
        self._keeper.stop(_soon(deadline + SIGNED_OFF))
        self._listener.stop(_soon(deadline + ENDED))
        self._watchdog.stop()


def _soon(until: float) -> float:
    """When to give up what no grace was asked for, though there may be some of it left."""
    now = time.monotonic()
    return max(now, min(until, now + PATIENCE))

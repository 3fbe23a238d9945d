"""One attempt: decode, call the handler, in a transaction where it asks for one."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import psycopg

from pgbus.core.bodies import UnknownType
from pgbus.core.encoding import Encoded
from pgbus.core.verdict import Bury, Done, GiveBack, Verdict
from pgbus.errors import LeaseLost, PayloadError, PgbusError
from pgbus.store.handling import lease_lost
from pgbus.store.query import run
from pgbus.store.settle import LaneSettlement
from pgbus.threads.call import Call
from pgbus.threads.delivery import Delivery
from pgbus.threads.link import Backoff, is_over
from pgbus.threads.outcome import Outcomes, WorkerDied
from pgbus.threads.session import Session
from pgbus.threads.station import Station
from pgbus.threads.subscription import Hold, Subscription
from pgbus.threads.transaction import Transactions, Undecided

Result = tuple[Verdict, BaseException | None]
DONE: Result = Done(), None
NOT_BEGUN: Result = GiveBack("its lease was lost, or the bus stops"), None
"""The handler was not called, because meanwhile nothing more was to be begun."""


class Ending(NamedTuple):
    """How the transaction of a handler ends, once it has returned."""

    lanes: list[LaneSettlement]
    """What is settled."""
    outgoing: list[Encoded]
    """What is published."""
    more: bool = False
    """Whether another event follows at once."""


Finish = Callable[[], Ending]


class Attempts:
    """How one worker's thread tries its subscription's handler.

    Attributes:
        transactional: whether the handler takes a connection, and settles in its transaction.
    """

    def __init__(self, subscription: Subscription, station: Station, outcomes: Outcomes) -> None:
        self._subscription = subscription
        self._handler = subscription.definition.handler
        self._most = subscription.definition.retry.max_attempts
        self._station = station
        self._outcomes = outcomes
        self.transactional = self._handler.connection_parameter is not None
        self._transactions = Transactions(station.server, station.watchdog)
        self._backoff = Backoff()

    def is_too_late(self, holds: Sequence[Hold]) -> bool:
        """Whether nothing more may be begun for chunks, which are all of one session."""
        given_up = any(hold.given_up for hold in holds)
        return self._subscription.closed or given_up or holds[0].session.lost

    def rest(self) -> None:
        """End the transaction that was begun for an event that did not follow."""
        self._transactions.roll_back()

    def close(self) -> None:
        """Close the connection of transactional handlers."""
        self._transactions.close()

    def give_up(self) -> None:
        """Have a transactional handler's work rolled back; called by who gives its call up.

        To be called after its chunks were marked as abandoned: either that is seen once there is a
        connection, or the connection is seen here.
        """
        self._transactions.give_up()

    def decode(self, delivery: Delivery) -> tuple[Any, Result | None]:
        """Return the event; or, where there is none to be had, what becomes of the message."""
        message = delivery.message
        if not message.troubled:
            try:
                return self._handler.decode_plain(message.headers, message.body), None
            except BaseException:  # noqa: S110 - what is wrong with it, if anything, is found below
                pass
        if message.deaths and message.failures + message.deaths >= self._most:
            return None, (
                Bury(),
                WorkerDied(f"{message.deaths} workers died while they handled it"),
            )
        try:
            return self._handler.decode(delivery.incoming, message.body), None
        except UnknownType as unknown:
            return self._decode_unknown(delivery, unknown)
        except PayloadError as fault:
            return None, (Bury(), fault)
        except BaseException as error:  # SystemExit, out of the type's own code
            return None, (self._outcomes.judge(message, error), error)

    def _decode_unknown(
        self, delivery: Delivery, unknown: UnknownType
    ) -> tuple[Any, Result | None]:
        # Behind a pooler that has no more sessions, the question below would wait for this one.
        self.rest()
        body, headers = delivery.message.body, delivery.message.headers
        try:
            return self._station.versions.decode(self._handler, unknown, body, headers), None
        except UnknownType as reason:
            return None, self._unknown(delivery.hold.session, reason)
        except PayloadError as fault:
            return None, (Bury(), fault)
        except (psycopg.Error, PgbusError) as error:
            return None, self._give_back("the registry could not be asked about its version", error)

    def _unknown(self, session: Session, unknown: UnknownType) -> Result:
        kind = f"{unknown.topic}@{unknown.version or ''}"
        try:
            elsewhere = self._station.known_elsewhere(self._subscription.number, session, kind)
        except (psycopg.Error, PgbusError) as error:
            return self._give_back("the database could not be asked who knows its type", error)
        if elsewhere:
            return GiveBack(f"another worker knows {unknown.label}"), None
        return Bury(), PayloadError(
            f"no live worker of {self._subscription.name} knows {unknown.label}"
            + (f": {unknown.why}" if unknown.why else "")
        )

    def call(self, argument: Any, context: Any, call: Call) -> None:
        """Call a handler that takes no connection; its exception passes through."""
        result = self._handler.call(argument, context)
        if self._handler.is_async:
            self._station.loop.call(result, call)

    def transact(
        self,
        delivery: Delivery,
        holds: Sequence[Hold],
        argument: Any,
        context: Any,
        finish: Finish,
    ) -> Result:
        """Call the handler in a transaction that also settles and publishes.

        Parameters:
            delivery: the event that answers for all.
            holds: the chunks that the events belong to, all of one session.
            finish: called when the handler has returned, for what its transaction holds beside.

        Returns:
            What became of it; :data:`NOT_BEGUN` where the handler was not called.
        """
        transactions = self._transactions
        broke = True
        try:
            connection = transactions.begin(delivery.hold.session)
            if self.is_too_late(holds):  # to connect may take seconds
                transactions.roll_back()
                return NOT_BEGUN
            try:
                self._transact(connection, delivery, holds, argument, context, finish)
            except BaseException as error:
                broke = _is_of_the_connection(error, connection)
                transactions.roll_back()
                raise
        except LeaseLost as error:
            for hold in holds:
                hold.fenced = True
            return GiveBack("the lease was lost"), error
        except psycopg.errors.InvalidTransactionTermination as error:
            transactions.close()
            fault = PgbusError("the handler ended the transaction that pgbus gave it")
            fault.__cause__ = error
            return self._outcomes.judge(delivery.message, fault), fault
        except (psycopg.Error, PgbusError) as error:
            # A connection that broke says nothing about the event: give it back, uncounted.
            if broke:
                transactions.close()
                if delivery.hold.abandoned:  # by us: who gave the call up has settled
                    return NOT_BEGUN
                for hold in holds:
                    hold.abandoned = True
                return self._give_back("the handler's connection broke", error)
            return self._outcomes.judge(delivery.message, error), error
        self._backoff.reset()
        return DONE

    def _give_back(self, reason: str, error: Exception) -> Result:
        """Return an event as it was, because the database is away; give that time to come back."""
        self._station.outage.report(f"a handler of {self._subscription.name}", error)
        self._subscription.pause(self._backoff.step())
        return GiveBack(reason), error

    def _transact(
        self,
        connection: "psycopg.Connection[Any]",
        delivery: Delivery,
        holds: Sequence[Hold],
        argument: Any,
        context: Any,
        finish: Finish,
    ) -> None:
        name = self._subscription.name
        self._handler.call(argument, context, connection)
        for hold in holds:
            if hold.abandoned:
                raise lease_lost(name)
        ending = finish()
        if ending.outgoing:
            run(connection, self._station.publish(ending.outgoing))
        worker = delivery.hold.session.id
        self._transactions.end(connection, name, worker, ending.lanes, more=ending.more)
        for lane in ending.lanes:
            if lane.again is not None:
                self._station.expect(name, lane.again[1])


def _is_of_the_connection(error: BaseException, connection: "psycopg.Connection[Any]") -> bool:
    """Whether an error says nothing about the event; a handler may close its connection, though."""
    if isinstance(error, Undecided):
        return True
    closed = connection.closed and not connection.broken
    return isinstance(error, psycopg.Error) and not closed and is_over(connection, error)

"""A worker: one thread that decodes, calls the handler and decides what becomes of the event."""

import logging
import random
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import assert_never

import msgspec
import psycopg

from pgbus.core.decoding import read_headers
from pgbus.core.encoding import Encoded
from pgbus.core.registry import UnknownType
from pgbus.core.retry import decide
from pgbus.core.verdict import Again, Bury, Done, GiveBack, Verdict
from pgbus.errors import LeaseLost, PayloadError, PgbusError, Unroutable
from pgbus.model.delivery import Message
from pgbus.store.leases import begin_handling
from pgbus.store.query import run
from pgbus.store.settle import LaneSettlement, settle
from pgbus.threads.call import Call, Reason
from pgbus.threads.context import Context, Incident, published
from pgbus.threads.link import Link
from pgbus.threads.settler import Settlement
from pgbus.threads.station import Station
from pgbus.threads.subscription import Hold, Subscription

logger = logging.getLogger(__name__)

FLUSH = 0.005
"""Seconds after which what is done of a chunk is handed to the settler."""
GIVE_BACK = 0.25
"""Seconds for which an event of an unknown type is left to other workers."""
MOST_TEXT = 16_384
STACK_SIZE = 1 << 20
"""Bytes: deeply nested JSON crashed a thread with less."""


class WorkerDied(PgbusError):
    """What a dead letter says whose workers died, one after the other, while they handled it."""


class TimedOut(PgbusError):
    """What a failure says whose handler took longer than the subscription's ``timeout``."""


@dataclass(slots=True)
class _Progress:
    """What is done of a chunk and not yet handed to the settler."""

    settlement: LaneSettlement
    since: float
    events: int = 0
    outgoing: list[Encoded] = field(default_factory=list)
    last: "tuple[Message, Context] | None" = None


class Worker:
    """See the module.

    Parameters:
        retired: called where the watchdog gave this worker up; somebody takes its place.
    """

    def __init__(
        self,
        subscription: Subscription,
        station: Station,
        number: int,
        retired: "Callable[[Worker], None]",
    ) -> None:
        self.number = number
        self._subscription = subscription
        self._definition = subscription.definition
        self._station = station
        self._retired = retired
        self._call: Call | None = None
        self._link: Link | None = None
        self._link_name = ""
        # What the thread that gives a call up reads while this one is in the handler.
        self._pending: deque[Hold] = deque()
        self._progress: _Progress | None = None
        self._message: Message | None = None
        self._gone = False
        name = f"pgbus-{subscription.name}-{number}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def join(self, timeout: float) -> bool:
        """Wait for the thread to end; false where it still runs."""
        self._thread.join(max(0.0, timeout))
        return not self._thread.is_alive()

    def abandon(self) -> bool:
        """Give up what it handles now, at the end of the grace; true where there was something."""
        call = self._call
        return call is not None and call.abandon("shutdown")

    def _run(self) -> None:
        try:
            while not self._gone:
                self._pending.extend(self._subscription.receive())
                if not self._pending:
                    return
                while self._pending and not self._gone:
                    self._work(self._pending.popleft())
        except BaseException:
            logger.critical("a worker of %s broke", self._subscription.name, exc_info=True)
            raise
        finally:
            if self._link is not None:
                self._link.drop()

    def _work(self, hold: Hold) -> None:
        progress = self._fresh(hold)
        messages = hold.chunk.messages
        for position, message in enumerate(messages):
            if hold.lost or self._subscription.closed:
                break
            last = position == len(messages) - 1
            if not self._handle(hold, message, progress, last=last):
                return
            if progress.since + FLUSH < time.monotonic() and not last and progress.events:
                self._flush(hold, progress, release=False)
                progress = self._fresh(hold)
        if hold.unsettled or progress.events:
            self._flush(hold, progress, release=True)

    def _fresh(self, hold: Hold) -> _Progress:
        lane = LaneSettlement(hold.chunk.lane, hold.chunk.token, release=False)
        return _Progress(lane, time.monotonic())

    def _flush(self, hold: Hold, progress: _Progress, *, release: bool) -> None:
        progress.settlement.release = release
        settlement = Settlement(
            self._subscription, hold, progress.settlement, progress.events, progress.outgoing
        )
        if progress.last is not None:
            message, context = progress.last
            settlement.on_fenced = partial(self._fenced, context)
            settlement.on_unroutable = partial(self._unroutable, hold, message, context)
        self._station.put(settlement)

    def _handle(self, hold: Hold, message: Message, progress: _Progress, *, last: bool) -> bool:
        """Handle one event; false where the chunk goes no further (it is settled or given up)."""
        incoming = read_headers(message.headers)
        call = Call(self._definition.timeout, lambda reason: self._give_up(reason, hold, context))
        context = Context(
            message,
            incoming,
            self._subscription.name,
            hold,
            self._station.encode,
            lambda seconds: self._station.watchdog.extend(call, seconds),
        )
        self._progress, self._message = progress, message
        transactional = self._definition.handler.connection_parameter is not None
        try:
            self._refuse_deadly(message)
            event = self._definition.handler.decode(incoming, message.body)
        except UnknownType as unknown:
            verdict, error = self._unknown(hold, unknown)
        except (PayloadError, WorkerDied) as fault:
            verdict, error = Bury(), fault
        else:
            self._call = call
            if call.deadline is not None:
                self._station.watchdog.watch(call)
            verdict, error = self._attempt(hold, message, event, context, call, last=last)
            self._call = None
            if call.deadline is not None:
                self._station.watchdog.forget(call)
            if not call.finish():
                self._gone = True
                return False
            self._subscription.demand.observe(time.monotonic() - call.started_at)
        return self._conclude(hold, message, context, progress, verdict, error, transactional, last)

    def _refuse_deadly(self, message: Message) -> None:
        most = self._definition.retry.max_attempts
        if message.deaths and message.failures + message.deaths >= most:
            raise WorkerDied(f"{message.deaths} workers died while they handled it")

    def _unknown(self, hold: Hold, unknown: UnknownType) -> tuple[Verdict, BaseException | None]:
        kind = f"{unknown.topic}@{unknown.version or 1}"
        try:
            elsewhere = self._station.known_elsewhere(self._subscription.number, hold.session, kind)
        except (psycopg.Error, PgbusError) as error:
            return GiveBack("the database could not be asked who knows its type"), error
        if elsewhere:
            return GiveBack(f"another worker knows {kind}"), None
        return Bury(), PayloadError(
            f"no live worker of {self._subscription.name} knows {unknown.topic!r} "
            f"in version {unknown.version}"
        )

    def _attempt(
        self,
        hold: Hold,
        message: Message,
        event: object,
        context: Context,
        call: Call,
        *,
        last: bool,
    ) -> tuple[Verdict, BaseException | None]:
        handler = self._definition.handler
        try:
            if handler.connection_parameter is not None:
                return self._transact(hold, message, event, context, last=last)
            result = handler.call(event, context)
            if handler.is_async:
                self._station.loop.call(result, call)
        except BaseException as error:  # SystemExit in a thread is a failure of the handler, too
            return self._judge(message, error), error
        return Done(), None

    def _judge(self, message: Message, error: BaseException) -> Verdict:
        return decide(
            self._definition.retry,
            error,
            message.failures + 1,
            message.deaths,
            random.random(),  # noqa: S311 - spreads retries, no secret
        )

    def _transact(
        self,
        hold: Hold,
        message: Message,
        event: object,
        context: Context,
        *,
        last: bool,
    ) -> tuple[Verdict, BaseException | None]:
        """Call the handler in a transaction that also acknowledges and publishes."""
        chunk, session, handler = hold.chunk, hold.session, self._definition.handler
        mark = f"{session.id}:{chunk.token}:{message.msg_id}"
        done = LaneSettlement(
            chunk.lane, chunk.token, release=last, done=[message.msg_id], troubled=message.troubled
        )
        link = self._own_link(hold)
        try:
            connection = link.connection()
            with connection.transaction():
                if not run(
                    connection,
                    begin_handling(chunk.subscription, chunk.lane, session.id, chunk.token, mark),
                ):
                    raise _lease_lost(self._subscription.name)
                handler.call(event, context, connection)
                if hold.abandoned:
                    raise _lease_lost(self._subscription.name)
                owned = run(connection, settle(self._subscription.name, session.id, [done], mark))
                if chunk.lane not in owned:
                    raise _lease_lost(self._subscription.name)
                run(connection, self._station.publish(published(context)))
        except LeaseLost as error:
            hold.fenced = True
            return GiveBack("the lease was lost"), error
        except psycopg.errors.InvalidTransactionTermination as error:
            link.drop()
            fault = PgbusError("the handler ended the transaction that pgbus gave it")
            fault.__cause__ = error
            return self._judge(message, fault), fault
        except (psycopg.Error, PgbusError) as error:
            # A connection that broke says nothing about the event: give it back, uncounted.
            if not link.usable:
                link.drop()
                hold.abandoned = True
                return GiveBack("the handler's connection broke"), error
            return self._judge(message, error), error
        return Done(), None

    def _own_link(self, hold: Hold) -> Link:
        name = f"pgbus/{hold.session.id:x}"
        if self._link is None or self._link_name != name:
            if self._link is not None:
                self._link.drop()
            self._link = Link(self._station.server, lambda: name)
            self._link_name = name
        return self._link

    def _conclude(
        self,
        hold: Hold,
        message: Message,
        context: Context,
        progress: _Progress,
        verdict: Verdict,
        error: BaseException | None,
        transactional: bool,
        last: bool,
    ) -> bool:
        """Turn a verdict into a settlement; true where the chunk goes on."""
        settlement = progress.settlement
        match verdict:
            case Done():
                if transactional:
                    self._subscription.settled(hold, 1, released=last)
                    return not last
                settlement.done.append(message.msg_id)
                settlement.troubled = settlement.troubled or message.troubled
                progress.outgoing += published(context)
                progress.events += 1
                progress.last = (message, context)
                return True
            case Again(delay, counted):
                assert error is not None
                self._tell("failure" if counted else None, error, context)
                outcome = "failure" if counted else "none"
                settlement.again = (message.msg_id, delay, outcome)
            case GiveBack(reason):
                if isinstance(error, LeaseLost):
                    self._fenced(context, error)
                else:
                    logger.info("given back: %s", reason, extra=context.log_extra())
                    delay = GIVE_BACK * random.uniform(0.5, 1.5)  # noqa: S311
                    settlement.again = (message.msg_id, delay, "none")
            case Bury():
                assert error is not None
                self._tell("dead_letter", error, context)
                tried = not isinstance(error, WorkerDied)
                settlement.dead.append((message.msg_id, _reason(error, tried=tried)))
                settlement.troubled = True
                progress.events += 1
                progress.last = (message, context)
                if self._definition.on_exhausted == "skip":
                    return True
            case _:
                assert_never(verdict)
        progress.last = (message, context)
        self._flush(hold, progress, release=True)
        return False

    def _tell(self, kind: str | None, error: BaseException, context: Context) -> None:
        if kind == "dead_letter":
            logger.error(
                "dead letter: %s", type(error).__name__, exc_info=error, extra=context.log_extra()
            )
            self._station.report(Incident("dead_letter", error, context))
        elif kind == "failure":
            logger.warning(
                "attempt %d failed: %s",
                context.attempt,
                type(error).__name__,
                exc_info=error,
                extra=context.log_extra(),
            )
            self._station.report(Incident("failure", error, context))
        else:
            logger.info("to be retried, uncounted", extra=context.log_extra())

    def _fenced(self, context: Context, error: BaseException) -> None:
        logger.warning("the lease was lost: nothing counts", extra=context.log_extra())
        self._station.report(Incident("fenced", error, context))

    def _unroutable(
        self, hold: Hold, message: Message, context: Context, error: Unroutable
    ) -> LaneSettlement:
        """What a handler published leads nowhere: its attempt has failed after all."""
        lane = LaneSettlement(hold.chunk.lane, hold.chunk.token, release=True)
        verdict = self._judge(message, error)
        if isinstance(verdict, Again):
            self._tell("failure", error, context)
            lane.again = (message.msg_id, verdict.delay, "failure")
        else:
            self._tell("dead_letter", error, context)
            lane.dead.append((message.msg_id, _reason(error, tried=True)))
            lane.troubled = True
        return lane

    def _give_up(self, reason: Reason, hold: Hold, context: Context) -> None:
        """Settle for a handler that does not return; the watchdog or the stopping thread calls.

        The worker's thread touches neither the progress nor the chunk any more: it finds the call
        abandoned when the handler returns.
        """
        progress, message = self._progress, self._message
        assert progress is not None
        assert message is not None
        hold.abandoned = True
        if reason == "shutdown":
            logger.warning("the handler outlasted the grace: given back", extra=context.log_extra())
            progress.settlement.again = (message.msg_id, 0.0, "release")
        else:
            error = TimedOut(f"the handler took longer than {self._definition.timeout:g} s")
            verdict = self._judge(message, error)
            if isinstance(verdict, Again):
                self._tell("failure", error, context)
                progress.settlement.again = (message.msg_id, verdict.delay, "failure")
            else:
                self._tell("dead_letter", error, context)
                progress.settlement.dead.append((message.msg_id, _reason(error, tried=True)))
                progress.settlement.troubled = True
        self._flush(hold, progress, release=True)
        while self._pending:
            left = self._pending.popleft()
            self._flush(left, self._fresh(left), release=True)
        if reason == "timeout":
            logger.error(
                "a thread of %s is stuck in its handler and was replaced: %s",
                self._subscription.name,
                self._thread.name,
                extra=context.log_extra(),
            )
            self._retired(self)


def _lease_lost(subscription: str) -> LeaseLost:
    return LeaseLost(
        f"subscription {subscription}: the lease was lost before the handler's transaction could "
        "commit; it is rolled back, and the event is delivered again"
    )


def _reason(error: BaseException, *, tried: bool) -> str:
    """Return what a dead letter keeps of its error, as JSON that PostgreSQL can store."""
    trace = "".join(traceback.format_exception(error))
    return msgspec.json.encode(
        {
            "error_type": type(error).__name__,
            "error": _storable(str(error)),
            "traceback": _storable(trace[-MOST_TEXT:]),
            "tried": int(tried),
        }
    ).decode()


def _storable(text: str) -> str:
    clean = (
        text.encode("utf-8", "replace").decode("utf-8").replace("\x00", "\N{REPLACEMENT CHARACTER}")
    )
    return clean[:MOST_TEXT]

"""A worker: one thread that takes chunks, tries the handler and hands in what became of them."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

from pgbus.core.account import exc_info
from pgbus.core.verdict import Done, Verdict
from pgbus.errors import Unroutable
from pgbus.model.delivery import Chunk, Message
from pgbus.store.settle import LaneSettlement
from pgbus.threads.attempt import DONE, NOT_BEGUN, Attempts, Ending, Finish, Result
from pgbus.threads.call import Call, Reason
from pgbus.threads.context import Context
from pgbus.threads.delivery import Delivery, Portion
from pgbus.threads.outcome import Outcomes, TimedOut
from pgbus.threads.station import Station
from pgbus.threads.subscription import Hold, Subscription

logger = logging.getLogger(__name__)

FLUSH = 0.005
"""Seconds after which what is done of a chunk is handed to the settler."""
BROKEN = 5.0
"""Seconds until a chunk is tried again that this code itself has failed over."""
Step = Literal["on", "stop", "over"]
"""How a chunk goes on: with its next event; not at all; or it was handed in already."""
STACK_SIZE = 1 << 20
"""Bytes: deeply nested JSON crashed a thread with less."""


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
        handler, limited = self._definition.handler, self._definition.timeout is not None
        self._handler = handler
        self._station = station
        self._outcomes = Outcomes(subscription.definition, station.report)
        self._attempts = Attempts(subscription, station, self._outcomes)
        self._retired = retired
        # What a failed publish must not blame on others is settled event by event.
        self._patience = 0.0 if station.strict else FLUSH
        self._call: Call | None = None
        # What the thread that gives a call up reads while this one is in the handler.
        self._pending: deque[Hold] = deque()
        self._trying: list[tuple[Portion, Message]] = []
        self._together = False
        self._gone = False
        # Most calls are of this kind: nobody limits them, and nothing but the event is asked for.
        self._quick = handler.is_plain and not (handler.is_async or handler.is_batch or limited)
        self._quick_call = Call(None, self._give_up)
        self._quick_call.finish()
        name = f"pgbus-{subscription.name}-{number}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def is_here(self) -> bool:
        """Whether the calling thread is this one."""
        return threading.current_thread() is self._thread

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
                self._attempts.rest()
                self._pending.extend(self._subscription.receive())
                if not self._pending:
                    return
                self._work()
        finally:
            self._attempts.close()

    def _work(self) -> None:
        """Handle what is pending, chunk after chunk."""
        while self._pending and not self._gone:
            hold = self._pending.popleft()
            try:
                self._handle_chunk(hold)
            except BaseException as error:
                self._break_off([hold], error)

    def _break_off(self, holds: Sequence[Hold], error: BaseException) -> None:
        """Let go of chunks over which this code itself has failed: their keys must not be stuck."""
        logger.critical("a worker of %s broke", self._subscription.name, exc_info=exc_info(error))
        for hold in holds:
            portion = self._portion(hold)
            hold.abandoned = True
            portion.lane.again = (hold.chunk.messages[0].msg_id, BROKEN, "release")
            self._flush(portion, release=True)

    def _handle_chunk(self, hold: Hold) -> None:
        portion = self._portion(hold)
        last = hold.chunk.messages[-1]
        for message in hold.chunk.messages:
            if hold.lost or self._subscription.closed:
                break
            step = self._handle_quickly(portion, message) if self._quick else None
            if step is None:
                step = self._handle(portion, message, last=message is last)
            if step != "on":
                if step == "stop":
                    self._flush(portion, release=True)
                return
            if portion.outgoing and self._station.strict:
                # Should it lead nowhere, its handler has failed after all: nothing may follow yet.
                if not self._handler.is_batch:  # which seldom come one by one
                    self._subscription.demand.take_singly()
                break
            if (
                message is not last
                and portion.events
                and portion.since + self._patience < time.monotonic()
            ):
                self._flush(portion, release=False)
                portion = self._portion(hold)
        if hold.unsettled or portion.events:
            self._flush(portion, release=True)

    def _handle_quickly(self, portion: Portion, message: Message) -> Step | None:
        """Handle an event with which nothing is special, as nearly all are; else return ``None``.

        What is wrong with a message, if anything, is left to :meth:`_handle` to find out.
        """
        if message.troubled:
            return None
        try:
            event = self._handler.decode_plain(message.headers, message.body)
        except BaseException:  # SystemExit, out of the type's own code
            return None
        call = self._quick_call
        self._trying, self._call = [(portion, message)], call
        portion.last = message
        call.again()  # from here on, until it is finished, the portion may be taken from us
        if self._subscription.closed:  # else who stops the bus after this look finds the call
            return "stop" if self._finish(call) else "over"
        failure = None
        try:
            self._handler.function(event)
        except BaseException as error:  # SystemExit in a thread is a failure of the handler, too
            failure = error
        if not call.finish():
            self._gone = True
            return "over"
        self._subscription.demand.observe(time.monotonic() - call.started_at)
        if failure is not None:
            verdict = self._outcomes.judge(message, failure)
            delivery = self._delivery(portion.hold, message)
            return "on" if self._enter(portion, delivery, verdict, failure) else "stop"
        portion.lane.done.append(message.msg_id)
        portion.events += 1
        return "on"

    def _handle(self, portion: Portion, message: Message, *, last: bool) -> Step:
        """Handle one event, and say how its chunk goes on."""
        hold = portion.hold
        delivery = self._delivery(hold, message)
        event, result = self._attempts.decode(delivery)
        if result is None:
            result = self._try_one(portion, delivery, event, last=last)
            if result is None:
                return "over"
            if result is NOT_BEGUN:
                return "stop"
            if isinstance(result[0], Done):
                if self._attempts.transactional:
                    self._settled(hold, 1, released=last)
                    return "over" if last else "on"
                portion.outgoing += delivery.published
        portion.last = message
        if not self._enter(portion, delivery, *result):
            return "stop"
        # A transactional successor settles itself: it must not overtake what the portion holds.
        return "stop" if self._attempts.transactional else "on"

    def _enter(
        self, portion: Portion, delivery: Delivery, verdict: Verdict, error: BaseException | None
    ) -> bool:
        """Enter what became of an event; true where the next of its lane may follow."""
        portion.events += 1
        return self._outcomes.apply(verdict, error, delivery, portion.lane)

    def _settled(self, hold: Hold, events: int, *, released: bool) -> None:
        """Note what a handler's transaction has settled, past the settler."""
        if self._subscription.settled([(hold, events, released)]):
            self._station.released()

    def _portion(self, hold: Hold) -> Portion:
        """Return the portion of a chunk of which nothing is done yet."""
        lane = LaneSettlement(hold.chunk.lane, hold.chunk.token, release=False)
        return Portion(self._subscription, hold, lane, time.monotonic(), answering=self)

    def _delivery(self, hold: Hold, message: Message) -> Delivery:
        return Delivery(hold, message, self._introduce)

    def _introduce(self, delivery: Delivery) -> Context:
        return Context(
            delivery.message,
            delivery.incoming,
            self._subscription.name,
            delivery.hold,
            self._station.encode,
            self._extend,
        )

    def _extend(self, seconds: float) -> None:
        call = self._call
        if call is not None:
            self._station.watchdog.extend(call, seconds)

    def _try_one(
        self, portion: Portion, delivery: Delivery, event: Any, *, last: bool
    ) -> Result | None:
        more = not last or bool(self._pending)
        finish = partial(_acknowledged, portion.hold.chunk, delivery, last=last, more=more)
        context = None if self._handler.context_parameter is None else delivery.context
        return self._try(delivery, [(portion, delivery.message)], event, context, finish)

    def _try(
        self,
        first: Delivery,
        trying: list[tuple[Portion, Message]],
        argument: Any,
        context: Any,
        finish: Finish,
        *,
        events: int = 1,
    ) -> Result | None:
        """Try the handler; ``None`` where somebody gave the call up meanwhile.

        To decode what is tried may have taken long, so once more it is looked whether it may be
        begun: after the call can be found by who stops the bus, which neither can miss then.

        Parameters:
            first: the event that answers for all.
            trying: the portions that are in the call, each with the event that answers for it; all
                of one session.
            finish: what a transaction settles and publishes once the handler has returned.
            events: how many the call handles.
        """
        call = Call(self._definition.timeout, self._give_up)
        self._trying, self._call, self._together = trying, call, events > 1
        if call.deadline is not None:
            self._station.watchdog.watch(call)
        result = DONE
        holds = [portion.hold for portion, _ in trying]
        try:
            if self._attempts.is_too_late(holds):
                result = NOT_BEGUN
            elif self._attempts.transactional:
                result = self._attempts.transact(first, holds, argument, context, finish)
            else:
                self._attempts.call(argument, context, call)
        except BaseException as error:  # SystemExit in a thread is a failure of the handler, too
            result = self._outcomes.judge(first.message, error), error
        self._call = None
        if call.deadline is not None:
            self._station.watchdog.forget(call)
        if not self._finish(call):
            return None
        if result is not NOT_BEGUN:
            self._subscription.demand.observe((time.monotonic() - call.started_at) / events)
        return result

    def _finish(self, call: Call) -> bool:
        """End a call; false where it was given up, which is the end of this worker."""
        self._gone = not call.finish()
        return not self._gone

    def _flush(self, portion: Portion, *, release: bool) -> None:
        portion.lane.release = release
        self._station.put(portion)

    def fenced(self, portion: Portion, error: BaseException) -> None:
        """Tell that the lease of a portion was lost; see ``Answering``."""
        if portion.last is not None:
            self._outcomes.fenced(self._delivery(portion.hold, portion.last).context, error)

    def unroutable(self, portion: Portion, error: Unroutable) -> LaneSettlement:
        """What a handler published leads nowhere: its attempt has failed after all."""
        assert portion.last is not None
        delivery = self._delivery(portion.hold, portion.last)
        lane = LaneSettlement(portion.lane.lane, portion.lane.token, release=True)
        verdict = self._outcomes.judge(delivery.message, error)
        self._outcomes.apply(verdict, error, delivery, lane)
        return lane

    def _give_up(self, reason: Reason) -> None:
        """Settle for a handler that does not return; the watchdog or the stopping thread calls.

        The worker's thread touches neither the portions nor the chunks any more: it finds the call
        abandoned when the handler returns.
        """
        for portion, _ in self._trying:
            portion.hold.abandoned = True
        self._attempts.give_up()
        for portion, message in self._trying:
            delivery = self._delivery(portion.hold, message)
            if reason == "timeout" and not self._together:
                error = TimedOut(f"the handler took longer than {self._definition.timeout:g} s")
                verdict = self._outcomes.judge(message, error)
                self._outcomes.apply(verdict, error, delivery, portion.lane)
            else:  # it has not failed; where it was one of many, it is to be tried alone
                if reason == "shutdown":
                    extra = delivery.context.log_extra()
                    logger.warning("the handler outlasted the grace: given back", extra=extra)
                portion.lane.again = (message.msg_id, 0.0, "release")
            self._flush(portion, release=True)
        while self._pending:
            self._flush(self._portion(self._pending.popleft()), release=True)
        if reason == "timeout":
            self._tell_stuck()
            self._retired(self)

    def _tell_stuck(self) -> None:
        name = self._subscription.name
        call = self._call
        # An async handler is cancelled: its thread ends by itself.
        if call is None or call.future is None:
            text = "a thread of %s is stuck in its handler and was replaced: %s"
            logger.error(text, name, self._thread.name)
        if self._together:
            text = "a batch of %s took longer than %g s: its events are tried one by one"
            logger.warning(text, name, self._definition.timeout)


def _acknowledged(chunk: Chunk, delivery: Delivery, *, last: bool, more: bool) -> Ending:
    """Return how the transaction of a handler ends that has handled one event."""
    message = delivery.message
    done = [message.msg_id]
    lane = LaneSettlement(chunk.lane, chunk.token, last, done=done, troubled=message.troubled)
    return Ending([lane], delivery.published, more)

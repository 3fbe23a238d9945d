"""Batches: a handler that takes a list gets what waits, of many keys, in one call.

Order is kept within each key: an event that is retried or given up takes the later ones of its key
that were in the batch with it, so that they come again behind it. A batch whose handler raises, or
takes too long, is tried again at once, one event at a time: a bad event is blamed alone.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import islice
from typing import Any
from uuid import UUID

from pgbus.core.encoding import MISSING, Encoded, outgoing
from pgbus.core.verdict import Again, Bury, Done, Verdict
from pgbus.model.config import Reject, RetryAfter
from pgbus.model.event import Event
from pgbus.threads.attempt import NOT_BEGUN, Ending, Result
from pgbus.threads.context import Context, caused, lost_meanwhile
from pgbus.threads.delivery import Delivery, Portion
from pgbus.threads.subscription import Hold
from pgbus.threads.worker import Worker


class Retried(Exception):
    """What a failure says of an event that its handler asked to be retried."""


class Apart(Exception):
    """The transaction of a batch holds what its handler did for events that are to come again."""


class BatchContext(Sequence[Context]):
    """The deliveries that a batch handler is called for: one context an event, in their order.

    ``context[i]`` belongs to ``events[i]``.
    """

    def __init__(self, deliveries: Sequence[Delivery], extend: Callable[[float], None]) -> None:
        self._deliveries = deliveries
        self._extend = extend
        self._errors: dict[int, Exception] = {}
        self._outgoing: list[Encoded] = []

    def __len__(self) -> int:
        return len(self._deliveries)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [delivery.context for delivery in self._deliveries[index]]
        return self._deliveries[index].context

    def __iter__(self) -> Iterator[Context]:
        return (delivery.context for delivery in self._deliveries)

    @property
    def lease_lost(self) -> bool:
        """Whether the lease of any of the keys was lost."""
        return any(delivery.hold.lost for delivery in self._deliveries)

    def reject(self, index: int, reason: str) -> None:
        """Make event ``index`` a dead letter once the handler returns.

        Parameters:
            index: its place in the batch, from 0.
            reason: what the dead letter says.

        Raises:
            IndexError: there is no such event.
        """
        self._note(index, Reject(reason))

    def retry(self, index: int, after: float | None = None) -> None:
        """Have event ``index``, and the later ones of its key, delivered again.

        Parameters:
            index: its place in the batch, from 0.
            after: seconds, without counting a failure; left out, it has failed, and the
                subscription's ``Retry`` decides.

        Raises:
            IndexError: there is no such event.
            ConfigurationError: ``after`` is no number of seconds up to a hundred years.
        """
        self._note(index, Retried("retried by its handler") if after is None else RetryAfter(after))

    def _note(self, index: int, error: Exception) -> None:
        self._errors[range(len(self))[index]] = error

    def publish(
        self,
        topic: str | Event,
        payload: Any = MISSING,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        delay: float | timedelta | None = None,
        at: datetime | None = None,
        id: UUID | None = None,  # noqa: A002 - named as Bus.publish names it
    ) -> UUID:
        """Publish with the acknowledgement of the batch; see ``Context.publish``.

        The event carries the id of the batch's first as its cause. It is published with the
        acknowledgement of the first one that is neither rejected nor retried, if any; what belongs
        to another is for ``context[i].publish``. Parameters are those of
        :meth:`pgbus.Bus.publish`.

        Returns:
            The event's id.

        Raises:
            PayloadError, InvalidTopic, ConfigurationError: see :meth:`pgbus.Bus.publish`.
        """
        item = outgoing(topic, payload, key=key, headers=headers, delay=delay, at=at, id=id)
        encoded = caused(self[0], item)
        self._outgoing.append(encoded)
        return encoded.id

    def extend(self, seconds: float) -> None:
        """Let this call go on for ``seconds`` from now.

        Raises:
            LeaseLost: that of every key was; see :meth:`Context.extend`.
            ConfigurationError: see there, too.
        """
        if all(delivery.hold.lost for delivery in self._deliveries):
            raise lost_meanwhile(self[0].subscription)
        self._extend(seconds)


def _errors(context: BatchContext) -> list[Exception | None]:
    """Return, for each event, why it is rejected or retried, if it is."""
    return [context._errors.get(index) for index in range(len(context))]


def _blames(verdict: Verdict) -> bool:
    """Whether one of the events that were tried together is at fault."""
    return isinstance(verdict, Bury) or (isinstance(verdict, Again) and verdict.counted)


@dataclass(slots=True)
class _Part:
    """The events of one chunk that are in a batch."""

    portion: Portion
    deliveries: list[Delivery] = field(default_factory=list)
    events: list[Any] = field(default_factory=list)


class BatchWorker(Worker):
    """A worker whose handler takes a list of events."""

    def _work(self) -> None:
        holds = list(self._pending)
        self._pending.clear()
        try:
            self._handle_together(holds)
        except BaseException as error:
            self._pending.clear()
            self._break_off([hold for hold in holds if hold.unsettled], error)
        else:
            super()._work()

    def _handle_together(self, holds: Sequence[Hold]) -> None:
        """Call the handler once for all chunks; what is to be tried event by event is pending then.

        Some of that is so during the call: who gives the call up lets go of it, too.
        """
        parts = []
        for hold in holds:
            part = self._prepare(hold)
            if part.events:
                parts.append(part)
            else:
                self._pending.append(hold)
        if parts and not self._try_together(parts):
            self._pending.extend(part.portion.hold for part in parts)

    def _prepare(self, hold: Hold) -> _Part:
        """Decode a chunk's events, up to one that is troubled or no event: that comes alone."""
        part = _Part(self._portion(hold))
        for message in hold.chunk.messages:
            if hold.lost or hold.chunk.suspect or message.troubled or self._subscription.closed:
                break
            delivery = self._delivery(hold, message)
            event, result = self._attempts.decode(delivery)
            if result is not None:
                break
            part.deliveries.append(delivery)
            part.events.append(event)
        return part

    def _try_together(self, parts: Sequence[_Part]) -> bool:
        """Call the handler for several events; false where one of them is to be found guilty."""
        events = [event for part in parts for event in part.events]
        deliveries = [delivery for part in parts for delivery in part.deliveries]
        context = BatchContext(deliveries, self._extend)
        for part in parts:
            part.portion.last = part.deliveries[0].message

        def finish() -> Ending:
            self._require_whole(parts, context)
            concluded = self._drafts(parts)
            self._conclude(concluded, context)
            lanes = [part.portion.lane for part in concluded]
            return Ending(lanes, [event for part in concluded for event in part.portion.outgoing])

        trying = [(part.portion, part.deliveries[0].message) for part in parts]
        first = parts[0].deliveries[0]
        result = self._try(first, trying, events, context, finish, events=len(events))
        if result is None:
            return True
        verdict, error = result
        settled = self._attempts.transactional and isinstance(verdict, Done)
        if isinstance(verdict, Done):
            if not settled:
                finish()
        elif _blames(verdict):
            return False
        elif result is not NOT_BEGUN:
            for part in parts:
                self._enter(part.portion, part.deliveries[0], verdict, error)
        self._let_go(parts, settled=settled)
        return True

    def _let_go(self, parts: Sequence[_Part], *, settled: bool) -> None:
        """Hand the chunks of a batch in, unless the handler's transaction has settled them."""
        for part in parts:
            if settled:
                hold = part.portion.hold
                self._settled(hold, hold.unsettled, released=True)
            else:
                self._flush(part.portion, release=True)

    def _drafts(self, parts: Sequence[_Part]) -> Sequence[_Part]:
        """Return where to enter what became of the events: apart, if the transaction may fail.

        What is entered in the portions themselves is settled, whatever becomes of the transaction.
        """
        if not self._attempts.transactional:
            return parts
        return [replace(part, portion=self._portion(part.portion.hold)) for part in parts]

    def _require_whole(self, parts: Sequence[_Part], context: BatchContext) -> None:
        """Raise where a transaction may hold what was done for events that come again.

        Then it is rolled back, and the events are tried one by one.
        """
        if not self._attempts.transactional:
            return
        errors = iter(_errors(context))
        for part in parts:
            stopped = False
            for error in islice(errors, len(part.deliveries)):
                if stopped and error is None:
                    raise Apart
                stopped = stopped or self._stops(error)

    def _stops(self, error: Exception | None) -> bool:
        """Whether the later ones of its key come again, whatever becomes of the event itself.

        A handler that asks for a retry may rely on it, and have left them out.
        """
        parks = self._definition.on_exhausted == "park"
        return isinstance(error, Retried | RetryAfter) or (parks and error is not None)

    def _conclude(self, parts: Sequence[_Part], context: BatchContext) -> None:
        """Enter what became of each event; what follows one that stops its lane goes back."""
        errors = iter(_errors(context))
        of_all = context._outgoing
        for part in parts:
            part.portion.lane.release = True
            goes_on = True
            for delivery in part.deliveries:
                error = next(errors)
                if not goes_on:
                    continue
                verdict = Done() if error is None else self._outcomes.judge(delivery.message, error)
                goes_on = self._enter(part.portion, delivery, verdict, error)
                goes_on = goes_on and not self._stops(error)
                if error is None:
                    part.portion.outgoing += of_all + delivery.published
                    of_all = []

    def _try_one(
        self, portion: Portion, delivery: Delivery, event: Any, *, last: bool
    ) -> Result | None:
        context = BatchContext([delivery], self._extend)
        part = _Part(self._portion(portion.hold), [delivery], [event])

        def finish() -> Ending:
            self._conclude([part], context)
            part.portion.lane.release = last or _errors(context) != [None]
            return Ending([part.portion.lane], part.portion.outgoing)

        result = self._try(delivery, [(portion, delivery.message)], [event], context, finish)
        [error] = _errors(context)
        if result is None or not isinstance(result[0], Done):
            return result
        if error is None:
            if not self._attempts.transactional:
                portion.outgoing += context._outgoing
            return result
        if self._attempts.transactional:
            self._settled(portion.hold, portion.hold.unsettled, released=True)
            return None
        return self._outcomes.judge(delivery.message, error), error

"""The fetcher leases by demand: one thread and one connection for all subscriptions of a bus.

Each subscription is *ready* (there may be something to take) or idle. An idle one becomes ready
when a publisher wakes it, a retry falls due, one of its lanes is let go, or a poll finds something.
The fetcher that falls idle goes to *sleep* on the server, which is what makes publishers notify it,
and looks once more. While events stream, nobody sleeps and nobody notifies: between two bursts it
takes a *nap* of a few milliseconds, which nobody hears of.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import psycopg

from pgbus.core.account import exc_info
from pgbus.core.demand import MOST_BYTES, Wish
from pgbus.core.walk import Step
from pgbus.model.delivery import Chunk
from pgbus.store.leases import Polled, Take, Taken, poll, take
from pgbus.store.settle import LaneSettlement
from pgbus.threads.link import Backoff, Link, Outage, join
from pgbus.threads.session import Session
from pgbus.threads.subscription import NAP, Hold, Parcel, Subscription

logger = logging.getLogger(__name__)

POLL = 1.0
"""Seconds between two polls of an idle process behind a pooler, which hears no notification."""
SLEEP = 2.0
"""Seconds between two of any other."""
PATIENCE = 0.3
"""Seconds that a take under way gets at shutdown. One that is given up gives its lanes back as the
worker signs off."""
EXPIRED = 0.02
"""Seconds between two looks whether a lease that ran out was renewed."""
FIRST_POLL = 0.01
"""Seconds after the first poll of a subscription of which the process cannot be the sleeper, once
nothing comes; each waits twice as long as the one before, up to those."""
MOST_PATIENCE = 8.0
"""How often as long as other statements a take may wait for its reply, after some that were cut."""
STREAK = 3
"""After so many takes in a row that won something, the bus is busy and sleeps no longer."""

GiveBack = Callable[[Subscription, Hold, LaneSettlement], None]


class Fetcher:
    """See the module.

    Parameters:
        session: returns the session to lease under.
        give_back: settles lanes that turned out to be empty.
    """

    def __init__(
        self,
        link: Link,
        subscriptions: Sequence[Subscription],
        session: Callable[[], Session],
        give_back: GiveBack,
        outage: Outage,
    ) -> None:
        self._link = link
        self._subscriptions = subscriptions
        self._session = session
        self._give_back = give_back
        self._outage = outage
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._due: dict[str | None, float] = {}
        self._polled_at = 0.0
        self._next_poll = 0.0
        self._overdue = 0.0
        # Set by anyone, cleared by the thread before it looks.
        self._scheduled = False
        self._thread = threading.Thread(target=self._run, name="pgbus-fetcher", daemon=True)

    def start(self) -> None:
        """Begin to fetch."""
        self._thread.start()

    def stop(self) -> None:
        """Take nothing more; returns once the thread has ended, or a stalled link was given up."""
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            join(self._thread, self._link, time.monotonic() + PATIENCE)

    def wake(self, name: str | None = None) -> None:
        """Look again: at one subscription, or at what is scheduled where ``name`` is ``None``."""
        for subscription in self._subscriptions:
            if subscription.name == name:
                subscription.look()
        if name is None:
            self._scheduled = True
        self._wake.set()

    def released(self) -> None:
        """Look again: room or lanes became free."""
        self._wake.set()

    def expect(self, name: str, seconds: float) -> None:
        """Look at a subscription again in ``seconds``, when a retry of its falls due."""
        self._set_timer(name, time.monotonic() + seconds)
        self._wake.set()

    def _set_timer(self, name: str | None, moment: float) -> None:
        with self._lock:
            self._due[name] = min(moment, self._due.get(name, moment))

    def _run(self) -> None:
        backoff = Backoff()
        try:
            while not self._stop.is_set():
                if self._session().lost:
                    # What it took now would go back unbegun, and be blamed for a death, if the
                    # database is about to record ours. The keeper is the one to come back.
                    self._stop.wait(EXPIRED)
                    continue
                try:
                    self._wake.clear()
                    busy = self._cycle()
                except Exception as error:  # without takes all that waits would wait for ever
                    if self._stop.is_set():  # the link was interrupted
                        return
                    self._outage.report("the fetcher", error)
                    self._link.drop()  # and with its session the lock that says that it sleeps
                    self._forget_sleep()
                    if backoff.wait(self._stop):
                        return
                    continue
                backoff.reset()
                self._outage.over()
                if not busy and not self._stop.is_set():  # of which the wake may have been cleared
                    self._wake.wait(self._rest())
        finally:
            self._link.drop()

    def _forget_sleep(self) -> None:
        for subscription in self._subscriptions:
            subscription.asleep = False
            subscription.ready = True
        self._next_poll = 0.0

    def _cycle(self) -> bool:
        """Look at everything once; true where there may be more to do at once."""
        now = time.monotonic()
        self._ring(now)
        if self._scheduled:
            self._scheduled = False
            self._next_poll = min(self._next_poll, self._polled_at + NAP)
        busy = False
        for subscription in self._subscriptions:
            if self._stop.is_set():
                return False
            if subscription.ready:
                wish = subscription.wish()
                if wish is not None:
                    busy = self._take(subscription, wish) or busy
        if now >= self._next_poll and not self._stop.is_set():
            self._poll(now)
            return True
        return busy

    def _ring(self, now: float) -> None:
        """Make those ready whose time has come."""
        with self._lock:
            rung = [name for name, moment in self._due.items() if moment <= now]
            for name in rung:
                del self._due[name]
        for subscription in self._subscriptions:
            if subscription.name in rung:
                subscription.rounds.press()
                subscription.rung = subscription.ready = True
            if subscription.nap is not None and subscription.nap <= now:
                subscription.nap = None
                subscription.ready = True
            if subscription.round_at is not None and subscription.round_at <= now:
                subscription.round_at = None
                subscription.ready = True
        if rung:
            # Only the next due moment was known: a poll promotes what is due, and asks for another.
            self._next_poll = 0.0

    def _rest(self) -> float:
        with self._lock:
            moments = [self._next_poll, *self._due.values()]
        for one in self._subscriptions:
            moments += [moment for moment in (one.nap, one.round_at) if moment is not None]
        return max(0.0, min(moments) - time.monotonic())

    def _take(self, subscription: Subscription, wish: Wish) -> bool:
        self._link.connection()  # which may take seconds, and be over after the sign-off
        if self._stop.is_set():
            return False
        session = self._session()
        subscription.ready = False
        step = self._next_step(subscription, wish)
        order = Take(
            subscription=subscription.number,
            name=subscription.name,
            worker=session.id,
            token=session.next_token(),
            step=step,
            lanes=wish.lanes,
            quantity=wish.quantity,
            size=MOST_BYTES,
            suspects=subscription.may_take_suspect,
            awake=subscription.asleep and self._is_busy(subscription),
        )
        self._link.patience = subscription.patience
        try:
            try:
                taken = self._link.do(lambda connection: take(connection, order))
            except psycopg.errors.ProgramLimitExceeded:
                careful = replace(order, careful=True)
                taken = self._link.do(lambda connection: take(connection, careful))
        except BaseException:
            session.doubt(order.token)
            if self._link.cut:
                # A body that PostgreSQL cannot read back takes it seconds to find out, on a busy
                # machine more than a stalled link gets: cut off each time, it blocked its queue.
                subscription.patience = min(MOST_PATIENCE, 2 * subscription.patience)
            raise
        finally:
            self._link.patience = 1.0
        subscription.patience = 1.0
        if order.awake:
            subscription.asleep = False
        return self._hand_over(subscription, session, order, taken)

    @staticmethod
    def _next_step(subscription: Subscription, wish: Wish) -> Step:
        now = time.monotonic()
        rounds = subscription.rounds
        step = subscription.walk.next(wish.lanes, everywhere=rounds.due_at() <= now)
        if not step.by_arrival:
            subscription.round_at = None
            rounds.step(now, first=step.goes_through)
        return step

    def _hand_over(
        self, subscription: Subscription, session: Session, order: Take, taken: Taken
    ) -> bool:
        now = time.monotonic()
        subscription.flow.add(taken.events, now)
        if taken.lanes:
            unpack = partial(self._unpack, subscription, session, order, taken)
            if not taken.whole:  # what is given back must not wait until a worker has time
                unpack = partial(list, unpack())
            subscription.deliver(Parcel(taken.events, taken.suspect, unpack))
        if taken.events:
            subscription.streak += 1
            subscription.vain = 0
            subscription.poll_after = 0.0
        else:
            subscription.streak = 0
        idle = subscription.walk.learn(
            order.step,
            order.lanes,
            taken.lanes,
            taken.resume,
            live=taken.live,
            contested=taken.contested,
        )
        subscription.vain += idle
        if not idle or self._must_look_again(subscription, order.step, now):
            subscription.ready = True
            return True
        if subscription.flow.is_fast(now):
            subscription.nap = now + NAP
        elif not subscription.asleep:
            self._next_poll = min(self._next_poll, now + subscription.poll_after)
        return False

    @staticmethod
    def _must_look_again(subscription: Subscription, step: Step, now: float) -> bool:
        """Arrange for the next round, having found nothing free; return whether to look before it.

        What came, or was let go of, behind a round was not found by it. What came is among the
        newest, at which to look costs little.
        """
        rounds = subscription.rounds
        if not step.newest:
            rounds.over(now)
            return rounds.pressed and subscription.nap is None
        if rounds.pressed:
            subscription.round_at = rounds.due_at()
        return False

    def _unpack(
        self, subscription: Subscription, session: Session, order: Take, taken: Taken
    ) -> list[Hold]:
        """Make chunks of what was taken; a worker calls, while the next take is under way."""
        try:
            chunks, empty = taken.read()
        except Exception as error:
            # The keeper gives back all that this take won: nothing of it is in hand.
            session.doubt(order.token)
            text = "what was taken for %s could not be read"
            logger.critical(text, subscription.name, exc_info=exc_info(error))
            return []
        bodies = [message.body for chunk in chunks for message in chunk.messages]
        size = sum(len(body) for body in bodies if body is not None)
        all_seen = order.step.goes_through and taken.resume is None
        subscription.demand.learn(len(chunks), len(bodies), size, all_seen=all_seen)
        for lane in empty:
            nothing = Hold(_empty(order, lane), session)
            self._give_back(subscription, nothing, LaneSettlement(lane, order.token, release=True))
        return [Hold(chunk, session) for chunk in chunks]

    @staticmethod
    def _is_busy(subscription: Subscription) -> bool:
        return subscription.streak >= STREAK or subscription.flow.is_fast(time.monotonic())

    def _poll(self, now: float) -> None:
        self._polled_at = now
        idle = [one for one in self._subscriptions if not (one.ready or one.asleep or one.nap)]
        by_number = {one.number: one for one in self._subscriptions}
        # To sleep is to hold a lock of the session: behind a pooler there is none.
        pooled = self._link.pooled
        sleepy = [] if pooled else [one.number for one in idle]
        answers = self._link.run(lambda: poll(list(by_number), sleepy=sleepy))
        moved = any(answer.ready for answer in answers if answer.subscription is None)
        due = any(answer.next_due is not None and answer.next_due <= 0 for answer in answers)
        self._overdue = _longer(self._overdue, POLL) if due and not moved else 0.0
        for answer in answers:
            subscription = None if answer.subscription is None else by_number[answer.subscription]
            if answer.next_due is not None:
                name = None if subscription is None else subscription.name
                # What is due, and was not moved, somebody else is about to move, or keeps from it.
                over = answer.next_due <= 0 and not moved
                wait = self._overdue if over else max(0.0, answer.next_due) + 0.001
                self._set_timer(name, now + wait)
            if subscription is not None:
                self._heed(subscription, answer, now, moved=moved)
        restless = [one for one in idle if not one.asleep]
        for one in restless:
            one.poll_after = _longer(one.poll_after, POLL if pooled else SLEEP)
        self._next_poll = now + min((one.poll_after for one in restless), default=SLEEP)

    @staticmethod
    def _heed(subscription: Subscription, answer: Polled, now: float, *, moved: bool) -> None:
        """Look where there may be something, but not all the time at what cannot be had.

        Parameters:
            moved: whether the poll itself has brought events to queues.
        """
        rounds = subscription.rounds
        if moved or subscription.rung or not subscription.asleep:
            # Nobody has told of what came, or has become visible since the look that a timer rang
            # for; and it need not be the newest.
            rounds.press()
            if answer.ready:  # never back to false, which would undo what somebody has just set
                subscription.ready = True
        elif answer.ready and rounds.due_at() <= now:
            subscription.ready = True
        subscription.rung = False
        subscription.asleep = subscription.asleep or bool(answer.asleep)


def _longer(wait: float, most: float) -> float:
    return min(most, max(FIRST_POLL, 2 * wait))


def _empty(order: Take, lane: int) -> Chunk:
    return Chunk(order.subscription, lane, order.token, suspect=False, messages=[])

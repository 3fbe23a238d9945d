"""What becomes of an event, and who is told of it."""

import logging
from collections.abc import Callable
from typing import assert_never

import msgspec

from pgbus.core.account import exc_info, text_of, trace_of
from pgbus.core.chance import CHANCE
from pgbus.core.retry import decide
from pgbus.core.verdict import Again, Bury, Done, GiveBack, Verdict
from pgbus.errors import LeaseLost, PgbusError
from pgbus.model.delivery import Message
from pgbus.store.settle import LaneSettlement
from pgbus.threads.context import Context, Incident
from pgbus.threads.definition import Definition
from pgbus.threads.delivery import Delivery

logger = logging.getLogger(__name__)

GIVE_BACK = 0.25
"""Seconds for which an event of an unknown type is left to other workers."""
MOST_TEXT = 16_384


class WorkerDied(PgbusError):
    """What a dead letter says whose workers died, one after the other, while they handled it."""


class TimedOut(PgbusError):
    """What a failure says whose handler took longer than the subscription's ``timeout``."""


class Outcomes:
    """Turns verdicts on a subscription's events into settlements.

    Parameters:
        report: tells ``bus.on_error`` callbacks of an incident.
    """

    def __init__(self, definition: Definition, report: Callable[[Incident], None]) -> None:
        self._definition = definition
        self._report = report

    def judge(self, message: Message, error: BaseException) -> Verdict:
        """Decide what a handler's exception means."""
        if isinstance(error, LeaseLost):  # the settlement finds out whether it was
            return Again(GIVE_BACK, counted=False)
        return decide(
            self._definition.retry,
            error,
            message.failures + 1,
            message.deaths,
            CHANCE.random(),
        )

    def apply(
        self,
        verdict: Verdict,
        error: BaseException | None,
        delivery: Delivery,
        lane: LaneSettlement,
    ) -> bool:
        """Enter a verdict into a settlement; true where the lane's next event may follow."""
        message = delivery.message
        match verdict:
            case Done():
                lane.done.append(message.msg_id)
                lane.troubled = lane.troubled or message.troubled
                return True
            case Again(delay, counted):
                assert error is not None
                self._tell_failure(error, delivery.context, counted=counted)
                lane.again = (message.msg_id, delay, "failure" if counted else "none")
            case GiveBack(reason):
                if isinstance(error, LeaseLost):
                    self.fenced(delivery.context, error)
                else:
                    # With an error, the database is away: that is told once a second.
                    level = logging.INFO if error is None else logging.DEBUG
                    extra = delivery.context.log_extra()
                    logger.log(level, "given back: %s", reason, extra=extra)
                    delay = GIVE_BACK * CHANCE.uniform(0.5, 1.5)
                    lane.again = (message.msg_id, delay, "none")
            case Bury():
                assert error is not None
                account = _account(error)  # before anybody is told of a dead letter
                self._tell_dead_letter(error, delivery.context)
                lane.dead.append((message.msg_id, account))
                lane.troubled = True
                return self._definition.on_exhausted == "skip"
            case _:
                assert_never(verdict)
        return False

    def fenced(self, context: Context, error: BaseException) -> None:
        """Tell that an event's lease was lost before its acknowledgement."""
        logger.warning("the lease was lost: nothing counts", extra=context.log_extra())
        self._report(Incident("fenced", error, context))

    def _tell_failure(self, error: BaseException, context: Context, *, counted: bool) -> None:
        if not counted:
            logger.info("to be retried, uncounted", extra=context.log_extra())
            return
        logger.warning(
            "attempt %d failed: %s",
            context.attempt,
            type(error).__name__,
            exc_info=exc_info(error),
            extra=context.log_extra(),
        )
        self._report(Incident("failure", error, context))

    def _tell_dead_letter(self, error: BaseException, context: Context) -> None:
        logger.error(
            "dead letter: %s",
            type(error).__name__,
            exc_info=exc_info(error),
            extra=context.log_extra(),
        )
        self._report(Incident("dead_letter", error, context))


def _account(error: BaseException) -> str:
    """Return what a dead letter keeps of its error, as JSON that PostgreSQL can store."""
    return msgspec.json.encode(
        {
            "error_type": type(error).__name__,
            "error": _storable(text_of(error))[:MOST_TEXT],
            "traceback": _storable(trace_of(error)[-MOST_TEXT:]),
            # Whether the handler was tried once more, in vain: else its workers died before it.
            "tried": int(not isinstance(error, WorkerDied)),
        }
    ).decode()


def _storable(text: str) -> str:
    # By its name: what an exception's `__str__` returns may have an `encode` of its own.
    clean = str.encode(text, "utf-8", "replace").decode("utf-8")
    return clean.replace("\x00", "\N{REPLACEMENT CHARACTER}")

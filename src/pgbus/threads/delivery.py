"""What is in a worker's hands: one event, and what has become of its chunk so far."""

import time

import msgspec

from pgbus.core.encoding import Encoded
from pgbus.model.delivery import Message
from pgbus.model.envelope import Incoming
from pgbus.store.settle import LaneSettlement
from pgbus.threads.context import Context
from pgbus.threads.subscription import Hold


class Delivery(msgspec.Struct):
    """One event that a handler is tried with."""

    hold: Hold
    message: Message
    incoming: Incoming
    context: Context


class Portion(msgspec.Struct):
    """What is done of a chunk and not yet handed to the settler."""

    hold: Hold
    settlement: LaneSettlement
    since: float
    events: int = 0
    outgoing: list[Encoded] = []
    last: Delivery | None = None
    """The event that answers for the portion, should it be fenced, or publish to nowhere."""


def portion_of(hold: Hold) -> Portion:
    """Return the portion of a chunk of which nothing is done yet."""
    lane = LaneSettlement(hold.chunk.lane, hold.chunk.token, release=False)
    return Portion(hold, lane, time.monotonic())

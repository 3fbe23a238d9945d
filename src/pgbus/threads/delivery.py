"""What is in a worker's hands: one event, and what has become of its chunk so far."""

import time
from dataclasses import dataclass, field

from pgbus.core.encoding import Encoded
from pgbus.model.delivery import Message
from pgbus.model.envelope import Incoming
from pgbus.store.settle import LaneSettlement
from pgbus.threads.context import Context
from pgbus.threads.subscription import Hold


@dataclass(slots=True)
class Delivery:
    """One event that a handler is tried with."""

    hold: Hold
    message: Message
    incoming: Incoming
    context: Context


@dataclass(slots=True)
class Portion:
    """What is done of a chunk and not yet handed to the settler."""

    hold: Hold
    settlement: LaneSettlement
    since: float
    events: int = 0
    outgoing: list[Encoded] = field(default_factory=list)
    last: Delivery | None = None
    """The event that answers for the portion, should it be fenced, or publish to nowhere."""


def portion_of(hold: Hold) -> Portion:
    """Return the portion of a chunk of which nothing is done yet."""
    lane = LaneSettlement(hold.chunk.lane, hold.chunk.token, release=False)
    return Portion(hold, lane, time.monotonic())

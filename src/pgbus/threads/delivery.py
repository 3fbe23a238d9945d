"""What is in a worker's hands: one event, and what has become of its chunk so far."""

from typing import Protocol

import msgspec

from pgbus.core.encoding import Encoded
from pgbus.errors import Unroutable
from pgbus.model.delivery import Message
from pgbus.model.envelope import Incoming
from pgbus.store.settle import LaneSettlement
from pgbus.threads.context import Context
from pgbus.threads.subscription import Hold, Subscription


class Delivery(msgspec.Struct):
    """One event that a handler is tried with."""

    hold: Hold
    message: Message
    incoming: Incoming
    context: Context


class Portion(msgspec.Struct, eq=False):
    """What became of some events of a chunk: a worker gathers it, and the settler stores it."""

    subscription: Subscription
    hold: Hold
    lane: LaneSettlement
    since: float = 0.0
    """When it was begun, monotonic."""
    events: int = 0
    outgoing: list[Encoded] = []
    """What the handlers published: stored in the transaction of the acknowledgement."""
    last: Message | None = None
    """The event that answers for the portion, should it be fenced, or publish to nowhere."""
    answering: "Answering | None" = None


class Answering(Protocol):
    """Who answers for a portion that cannot be settled as it is."""

    def fenced(self, portion: Portion, error: BaseException) -> None:
        """Tell that the lease was lost: nothing counts."""

    def unroutable(self, portion: Portion, error: Unroutable) -> LaneSettlement:
        """Return the failure that a portion becomes whose publishing leads nowhere."""

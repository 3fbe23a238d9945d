"""What is in a worker's hands: one event, and what has become of its chunk so far."""

from collections.abc import Callable
from typing import Protocol

import msgspec

from pgbus.core.decoding import read_headers
from pgbus.core.encoding import Encoded
from pgbus.errors import Unroutable
from pgbus.model.delivery import Message
from pgbus.model.envelope import Incoming
from pgbus.store.settle import LaneSettlement
from pgbus.threads.context import Context, published
from pgbus.threads.subscription import Hold, Subscription


class Delivery:
    """One event that a handler is tried with; what most handlers never ask for is made when asked.

    Parameters:
        introduce: makes the context.
    """

    __slots__ = ("_contexts", "_incoming", "_introduce", "hold", "message")

    def __init__(
        self, hold: Hold, message: Message, introduce: "Callable[[Delivery], Context]"
    ) -> None:
        self.hold = hold
        self.message = message
        self._introduce = introduce
        self._incoming: Incoming | None = None
        self._contexts: list[Context] = []

    @property
    def incoming(self) -> Incoming:
        """The headers of the message."""
        if self._incoming is None:
            self._incoming = read_headers(self.message.headers)
        return self._incoming

    @property
    def context(self) -> Context:
        """What the handler is told of it: always the same object, whichever threads ask."""
        if not self._contexts:
            # Of two that are made at once the first counts: what is published through the other
            # would be lost.
            self._contexts.append(self._introduce(self))
        return self._contexts[0]

    @property
    def published(self) -> list[Encoded]:
        """What was published through its context."""
        return published(self._contexts[0]) if self._contexts else []


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

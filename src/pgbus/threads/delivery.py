"""What is in a worker's hands: one event, and what has become of its chunk so far."""

import threading
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

_INTRODUCING = threading.Lock()


class Delivery:
    """One event that a handler is tried with; what most handlers never ask for is made when asked.

    Parameters:
        introduce: makes the context.
    """

    __slots__ = ("_context", "_incoming", "_introduce", "hold", "message")

    def __init__(
        self, hold: Hold, message: Message, introduce: "Callable[[Delivery], Context]"
    ) -> None:
        self.hold = hold
        self.message = message
        self._introduce = introduce
        self._incoming: Incoming | None = None
        self._context: Context | None = None

    @property
    def incoming(self) -> Incoming:
        """The headers of the message."""
        if self._incoming is None:
            self._incoming = read_headers(self.message.headers)
        return self._incoming

    @property
    def context(self) -> Context:
        """What the handler is told of it: always the same object, whichever threads ask."""
        return self._context or self._introduced()

    def _introduced(self) -> Context:
        with _INTRODUCING:  # of two contexts, what is published through one would be lost
            if self._context is None:
                self._context = self._introduce(self)
            return self._context

    @property
    def published(self) -> list[Encoded]:
        """What was published through its context."""
        return [] if self._context is None else published(self._context)


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

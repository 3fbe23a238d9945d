"""What a worker holds: messages of leased lanes."""

from datetime import UTC, datetime, timedelta

import msgspec

FIRST_LANE = -(2**63)
LAST_LANE = 2**63 - 1
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


class Message(msgspec.Struct, frozen=True, gc=False):
    """A row of a queue, not yet decoded."""

    msg_id: int
    enqueued: int
    """Microseconds since the beginning of 2000, UTC, as PostgreSQL counts them."""
    body: str | None
    headers: str | None
    failures: int
    """How often its handler has failed so far."""
    deaths: int
    """How often a worker died of it."""
    troubled: bool
    """Whether anything went wrong with it before: the database remembers, and must forget."""

    @property
    def enqueued_at(self) -> datetime:
        """When it came into the queue, UTC; the first or last moment there is, if beyond that."""
        try:
            return _EPOCH + timedelta(microseconds=self.enqueued)
        except OverflowError:
            return (datetime.max if self.enqueued > 0 else datetime.min).replace(tzinfo=UTC)

    @property
    def attempt(self) -> int:
        """The number of this attempt, from 1."""
        return self.failures + self.deaths + 1

    def __repr__(self) -> str:
        return f"Message({self.msg_id})"  # and no payload


class Chunk(msgspec.Struct, eq=False):
    """The first events of one leased lane: the unit that moves between threads."""

    subscription: int
    lane: int
    token: int
    suspect: bool
    """A worker died while it held this event, which is therefore handled alone."""
    messages: list[Message]

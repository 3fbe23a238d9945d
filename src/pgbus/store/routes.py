"""What a process remembers of where topics lead.

pgmq evaluates every binding's regular expression for every message. Here the server is asked once
for each topic and *generation* of the bindings, a stamp that changes with every binding; publishing
sends the stamp along, and the server stores nothing where it is no longer the current one.
"""

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from pgbus.model.names import TAIL_PREFIX

MOST_TOPICS = 20_000


class Route(NamedTuple):
    """Where a topic leads."""

    queues: str
    """Joined by commas."""
    subscriptions: tuple[int, ...] | None
    """The numbers of those whose queues they are; ``None`` where some are somebody else's."""


class Routes:
    """The queues of topics, as of one generation; safe to share between threads.

    Every publisher reads and writes it; both see one consistent (generation, memory) pair, and a
    lost update costs one evaluation more.
    """

    def __init__(self) -> None:
        self._state: tuple[UUID | None, dict[str, Route]] = (None, {})
        self.tailed = False
        """Whether a topic is shown to a tail, as far as this generation is known."""

    def recall(self, topics: Sequence[str]) -> tuple[UUID | None, list[Route | None]]:
        """Return the generation and, for each topic, its route, if known."""
        generation, memory = self._state
        return generation, [memory.get(topic) for topic in topics]

    def learn(self, generation: UUID, topics: Sequence[str], routes: Sequence[Route]) -> None:
        """Remember what the server said."""
        known, memory = self._state
        if known != generation or len(memory) > MOST_TOPICS:
            memory = {}
            self.tailed = False
            self._state = (generation, memory)
        memory.update(zip(topics, routes, strict=True))
        self.tailed = self.tailed or any(TAIL_PREFIX in route.queues for route in routes)

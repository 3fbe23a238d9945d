"""What a process remembers of where topics lead.

pgmq evaluates every binding's regular expression for every message. Here the server is asked once
for each topic and *generation* of the bindings, a stamp that changes with every binding; publishing
sends what is remembered along and the server uses it only where the stamp is the current one.
"""

from collections.abc import Sequence
from uuid import UUID

MOST_TOPICS = 20_000


class Routes:
    """The queues of topics, as of one generation; safe to share between threads.

    Every publisher reads and writes it; both see one consistent (generation, memory) pair, and a
    lost update costs one evaluation more.
    """

    def __init__(self) -> None:
        self._state: tuple[UUID | None, dict[str, str]] = (None, {})

    def recall(self, topics: Sequence[str]) -> tuple[UUID | None, list[str | None]]:
        """Return the generation and, for each topic, its queues joined by commas, if known."""
        generation, memory = self._state
        return generation, [memory.get(topic) for topic in topics]

    def learn(self, generation: UUID, topics: Sequence[str], queues: Sequence[str]) -> None:
        """Remember what the server said."""
        known, memory = self._state
        if known != generation or len(memory) > MOST_TOPICS:
            memory = {}
            self._state = (generation, memory)
        memory.update(zip(topics, queues, strict=True))

"""A peer for tests that need no server."""

from collections.abc import Sequence

from benchmarks.peers import traits
from benchmarks.tally import Counter, Job

from pgbus import Event


class Still:
    """A peer that is told of events, and delivers none."""

    def __init__(self, name: str) -> None:
        self.traits = traits(name)

    def open(self) -> None:
        pass

    def clear(self, kind: str) -> None:
        pass

    def publish_each(self, events: Sequence[Event], callers: int) -> None:
        pass

    def publish_many(self, events: Sequence[Event], size: int) -> None:
        pass

    def consume(self, job: Job, counter: Counter) -> None:
        pass

    def close(self) -> None:
        pass

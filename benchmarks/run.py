"""What all programs of a run share: the server, the sizes, the contenders."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from benchmarks.measure import Case, Missing, Series, rounds
from benchmarks.orders import file_changes, webhooks
from benchmarks.peers import PEERS, PGBUS, Peer, Traits, make, traits
from benchmarks.server import Server
from pgbus import Event


class Opened(NamedTuple):
    """A contender that takes part."""

    name: str
    peer: Peer
    dsn: str
    """Its database, where it has one."""

    @property
    def title(self) -> str:
        """Its name in tables."""
        return self.peer.traits.name

    @property
    def ours(self) -> bool:
        """Whether it is pgbus."""
        return self.name == PGBUS


@dataclass
class Run:
    """The options of a run, and what it left out."""

    server: Server
    machine: dict[str, str]
    events: int
    repeat: int
    warm_up: bool
    peers: Sequence[str]
    seconds: float
    """How long a sustained run lasts."""
    backlogs: Sequence[int]
    """The backlogs of the program ``growth``."""
    tell: Callable[[str], None]
    left_out: list[str] = field(default_factory=list)

    @property
    def method(self) -> str:
        """How the values come about, in one line."""
        warm = "after a warm-up run" if self.warm_up else "without a warm-up"
        turns = f"the median of {self.repeat} runs taken in turns, {warm}"
        return f"unit: events/s; {turns}; ratios: the median of those in each round"

    def rounds(self, cases: Sequence[Case]) -> list[Series]:
        """Measure cases in turns."""
        return rounds(
            cases, self.repeat, warm_up=self.warm_up, tell=self.tell, left_out=self.left_out
        )

    def taken_left_out(self) -> list[str]:
        """Return what was left out since the last call."""
        taken, self.left_out = self.left_out, []
        return taken

    @contextmanager
    def contender(self, name: str, kind: str) -> Iterator[Opened]:
        """Open a contender in a database of its own, its queue empty."""
        entry = PEERS.get(name)
        dsn = self.server.installed() if entry is None or entry.postgres else ""
        peer = make(name, dsn)
        try:
            peer.open()
            peer.clear(kind)
            yield Opened(name, peer, dsn)
        finally:
            peer.close()
            if dsn:
                self.server.drop(dsn)

    def real_data(self, most: int) -> Iterator[tuple[str, str, list[Event]]]:
        """Yield the kind, the title and at most so many events of the data beside the checkout."""
        for kind, title, events in (
            ("change", "18,475 file changes", file_changes()),
            ("webhook", "webhooks of 1 to 24 KB", webhooks()),
        ):
            if events is None:
                self.left_out.append(f"{title}: the data does not lie beside the checkout")
            else:
                yield kind, title, events[:most]

    def present(self, *, without: Mapping[str, str] | None = None) -> list[str]:
        """Return the contenders that can take part, pgbus first; the others are left out.

        Parameters:
            without: who is not to take part, and why.
        """
        found = [PGBUS]
        for name in self.peers:
            reason = (without or {}).get(name) or self._missing(name)
            if reason:
                self.left_out.append(f"{traits(name).name}: {reason}")
            else:
                found.append(name)
        return found

    def _missing(self, name: str) -> str:
        """Return why a contender cannot take part; nothing where it can."""
        try:
            with self.contender(name, "order"):
                return ""
        except Missing as reason:
            return str(reason)


def describe(names: Sequence[str]) -> list[str]:
    """Return a line for each contender: its client, its durability, its order."""
    return [_line(traits(name)) for name in names]


def _line(one: Traits) -> str:
    safe = "durable" if one.durable else "NOT durable when confirmed"
    return f"{one.name}: {one.client}; {safe} ({one.settings}); order: {one.order}"


def find(series: Sequence[Series], shape: str, contender: str) -> Series | None:
    """Return what a contender reached in a shape, if it was measured."""
    for one in series:
        if (one.shape, one.contender) == (shape, contender):
            return one
    return None


def fastest(series: Sequence[Series], shape: str, names: Sequence[str]) -> tuple[str, float] | None:
    """Return the fastest of these contenders in a shape, by their names in the table."""
    found = [
        (one.median, one.contender)
        for one in series
        if one.shape == shape and one.contender in names
    ]
    if not found:
        return None
    value, name = max(found)
    return name, value

"""pgbus and its peers, each driven by its usual Python client as its documentation recommends."""

import importlib
from typing import NamedTuple

from benchmarks.peers.peer import Peer, Traits


class Entry(NamedTuple):
    """Where a contender is, and what it needs."""

    module: str
    kind: str
    """The class in the module."""
    postgres: bool
    """It lives in a database of the run's PostgreSQL."""


PGBUS = "pgbus"
PEERS: dict[str, Entry] = {
    "pgmq": Entry("pgmq", "Plain", postgres=True),
    "pgmq-grouped": Entry("pgmq", "Grouped", postgres=True),
    "pgqueuer": Entry("pgqueuer", "PgQueuer", postgres=True),
    "procrastinate": Entry("procrastinate", "Procrastinate", postgres=True),
    "rabbitmq": Entry("rabbitmq", "RabbitMQ", postgres=False),
    "redis": Entry("redis", "RedisStreams", postgres=False),
    "redis-hiredis": Entry("redis", "WithHiredis", postgres=False),
    "nats": Entry("nats", "JetStream", postgres=False),
}
_OURS = Entry("pgbus", "Pgbus", postgres=True)


def make(name: str, dsn: str) -> Peer:
    """Return a contender, not connected yet.

    Parameters:
        dsn: a database of its own with pgbus and pgmq installed, for those that want one.
    """
    entry = _OURS if name == PGBUS else PEERS[name]
    module = importlib.import_module(f"benchmarks.peers.{entry.module}")
    made: Peer = getattr(module, entry.kind)(dsn)
    return made


def traits(name: str) -> Traits:
    """Return what to know of a contender, whether it is installed or not."""
    return make(name, "").traits


__all__ = ["PEERS", "PGBUS", "Entry", "Peer", "Traits", "make", "traits"]

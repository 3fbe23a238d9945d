"""Which fault comes when: a pure function of the seed."""

import random
from collections.abc import Mapping
from typing import NamedTuple

KINDS: dict[str, int] = {
    "kill": 5,  # SIGKILL of a worker
    "stop": 8,  # SIGSTOP beyond its lease, then SIGCONT
    "term": 4,  # SIGTERM, and another in its place
    "publisher": 3,  # SIGKILL of a publisher, or of who looks after dead letters
    "terminate": 24,  # pg_terminate_backend of one to three
    "cut": 12,  # the proxy breaks every connection through it
    "delay": 10,  # … is slow
    "stall": 6,  # … relays nothing
    "lost reply": 18,  # … loses the reply to whatever is asked next
    "hang": 5,  # a handler that outlasts its timeout
    "gil": 2,  # … holds the interpreter's lock beyond the lease
    "exit": 2,  # … ends its process, the first two times that it gets the event
    "poison": 1,  # … ends its process each time
}
"""How often each comes, compared with the others."""
HARMS = ("hang", "gil", "exit", "poison")
"""Those that come as an event which asks its handler for it."""
CALM_AT = 0.85
"""The share of a run after which no event does harm: its consequences take a while."""
A_SECOND = 6.0
OVERTIME = 2.0
"""How much longer, at most, a run goes on for a number of events to be reached: by its own time."""
POSTMASTER = "postmaster"
POSTMASTER_EVERY = 15.0
"""Seconds between two kills of the postmaster, which come by the clock and not by chance."""


class Planned(NamedTuple):
    """One fault; ``pick`` (in [0, 1)) chooses its victim, ``size`` its length."""

    at: float
    kind: str
    pick: float
    size: float


def plan(seed: int, duration: float, mix: Mapping[str, int] | None = None) -> list[Planned]:
    """Return the faults of a run of ``duration`` seconds, in order.

    Parameters:
        mix: other weights than those of ``KINDS``; ``postmaster=0`` leaves it alive.

    Raises:
        ValueError: a kind is unknown, or a weight below zero.
    """
    weights = {**KINDS, POSTMASTER: 1, **(mix or {})}
    if unknown := weights.keys() - KINDS.keys() - {POSTMASTER}:
        raise ValueError(f"no such fault: {', '.join(sorted(unknown))}")
    if min(weights.values()) < 0:
        raise ValueError("a weight is below zero")
    dice = random.Random(seed)
    found = []
    if weights.pop(POSTMASTER):
        kills = int(duration / POSTMASTER_EVERY)
        found = [
            Planned((n + dice.uniform(0.3, 0.7)) * POSTMASTER_EVERY, POSTMASTER, 0.0, dice.random())
            for n in range(kills)
        ]
    if any(weights.values()):
        kinds = dice.choices([*weights], [*weights.values()], k=int(duration * A_SECOND))
        for kind in kinds:
            latest = duration * (CALM_AT if kind in HARMS else 1.0)
            moment = dice.uniform(min(1.0, latest), latest)
            found.append(Planned(moment, kind, dice.random(), dice.random()))
    return sorted(found)


def overtime(seed: int, duration: float, mix: Mapping[str, int] | None = None) -> list[Planned]:
    """Return the faults of the time that a run of ``duration`` may go on; see OVERTIME."""
    more = plan(seed + 1, duration * OVERTIME, mix)
    return [one._replace(at=one.at + duration) for one in more]


def read_mix(text: str) -> dict[str, int]:
    """Read ``kill=3,stop=0``.

    Raises:
        ValueError: it is something else.
    """
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    return {name.strip(): int(weight) for name, _, weight in pairs}

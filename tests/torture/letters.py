"""Dead letters and the order of their keys, decided from the audit of the database.

What is redriven is at its old place: a take that began after its redrive had been seen to be
committed hands out nothing of its lane that stands behind it, until it is settled again. A take
that had begun before may: it is not the redrive that came first.

Where a dead letter parks its key, nothing behind it is settled until it is put back or dropped.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.torture.audit import Row
from tests.torture.history import History, Lane
from tests.torture.laws import Violation


@dataclass
class _State:
    """A lane, as the audit has told of it so far."""

    letters: set[int] = field(default_factory=set)
    """Its dead letters, by the numbers of the messages."""
    back: dict[int, int] = field(default_factory=dict)
    """What was redriven and not yet settled, and in which transaction it was."""
    taken_at: float = 0.0
    xid: int = 0
    settled: set[int] = field(default_factory=set)
    """What the transaction ``xid`` has settled."""
    given_up: set[int] = field(default_factory=set)
    """… and made dead letters of."""


def places(history: History) -> Iterator[Violation]:
    """O: of what was redriven, and of parked keys."""
    # Of all lanes there are too many to remember; most never have a dead letter.
    lanes = {lane: _State() for lane in history.frame.troubled}
    over: dict[int, float] = {}
    parking = history.frame.parking
    for row in history.audit:
        if row.kind == "over":
            over[row.xid] = row.at
        if row.subscription is None or row.lane is None:
            continue
        place = row.subscription, row.lane
        state = lanes.get(place)
        if state is None or row.kind == "claim":
            continue
        if row.xid != state.xid:
            yield from _conclude(state, place, over, parks=row.subscription in parking)
            state.xid = row.xid
        _enter(state, row)
    for place, state in lanes.items():
        yield from _conclude(state, place, over, parks=place[0] in parking)


def _enter(state: _State, row: Row) -> None:
    match row.kind, row.msg_id:
        case "grant", _:
            state.taken_at = row.at
        case "settled", int(number):
            state.settled.add(number)
        case "letter", int(number):
            state.given_up.add(number)
        case "redriven", int(number):
            state.letters.discard(number)
            state.back[number] = row.xid
        case "dropped", int(number):
            state.letters.discard(number)


def _conclude(
    state: _State, place: Lane, over: dict[int, float], *, parks: bool
) -> Iterator[Violation]:
    """Judge what one transaction has settled, as a whole."""
    name = f"{place[0]}, lane {place[1]}"
    late = min(
        (
            number
            for number, xid in state.back.items()
            if number not in state.settled and over.get(xid, state.taken_at) < state.taken_at
        ),
        default=None,
    )
    for number in sorted(state.settled):
        if late is not None and number > late:
            yield Violation("O", f"{name}: {number} came before {late}, which had been redriven")
        before = state.letters | {one for one in state.given_up if one < number}
        if parks and before:
            yield Violation("O", f"{name}: {number} came, though {min(before)} parks its key")
    for number in state.settled:
        state.back.pop(number, None)
    state.letters |= state.given_up
    state.settled.clear()
    state.given_up.clear()

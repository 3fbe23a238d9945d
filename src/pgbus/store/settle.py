"""Settling: acknowledgements, retries, dead letters and releases, fenced, in one statement."""

from collections.abc import Sequence

import msgspec

from pgbus.store.arrays import booleans, numbers
from pgbus.store.query import Operation, Query, ask_one
from pgbus.store.statements import statement


class LaneSettlement(msgspec.Struct):
    """What became of some of the events of one leased lane."""

    lane: int
    token: int
    release: bool
    """Whether the lane is let go; else more of its events are in hand."""
    done: list[int] = []
    """The message ids that were handled."""
    again: tuple[int, float, str] | None = None
    """The one to be tried again: its id, the delay in seconds, and ``failure``, ``release`` or
    ``none`` for what is counted."""
    dead: list[tuple[int, str]] = []
    """Those given up: id, and what is to be known of its end, as a JSON object."""
    troubled: bool = False
    """Whether one of them had failed before."""


def settle(
    name: str,
    worker: int,
    lanes: Sequence[LaneSettlement],
    *,
    handling: bool = False,
    repeated: bool = False,
) -> Operation[set[int]]:
    """Settle lanes of one subscription; return those that the worker still held.

    In the others nothing was changed. The caller's transaction, if any, decides when it counts.

    Parameters:
        handling: whether this must be the transaction of a handler.
        repeated: whether the same was sent before, and may have been committed: lanes for which it
            was are none that the worker still held.
    """
    ordered = sorted(lanes, key=lambda one: one.lane)
    again = [(one.lane, *one.again) for one in ordered if one.again is not None]
    dead = [(one.lane, *letter) for one in ordered for letter in one.dead]
    parameters = (
        worker,
        numbers(one.lane for one in ordered),
        numbers(one.token for one in ordered),
        booleans(one.release for one in ordered),
        numbers(msg_id for one in ordered for msg_id in one.done),
        numbers(one.lane for one in ordered for _ in one.done),
        numbers(msg_id for _, msg_id, _, _ in again),
        numbers(lane for lane, _, _, _ in again),
        numbers(delay for _, _, delay, _ in again),
        [outcome for _, _, _, outcome in again],
        numbers(msg_id for _, msg_id, _ in dead),
        numbers(lane for lane, _, _ in dead),
        [reason for _, _, reason in dead],
        any(one.troubled for one in ordered),
        handling,
        repeated,
    )
    query = Query(statement("lease", "settle", settle=f"settle_{name}"), parameters, _lanes)
    return set((yield from ask_one(query)))


def _lanes(value: list[int]) -> list[int]:
    return value

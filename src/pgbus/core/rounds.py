"""When a subscription is to go round all its lanes again, after it has found none of them free.

Lanes that cannot be had cost as much as others to look at: some 5 µs of the server each. A hundred
thousand keys that wait for a retry, or behind dead letters, are half a second of it, again and
again for whatever comes. New events are found without them (see :mod:`pgbus.core.walk`). What is
not new becomes free because a worker of this process let it go or its retry fell due, or because
somebody says so: that *presses*; or because another process let it go, which nobody tells.
"""

import math
from typing import Final

PRESSED: Final = 4.0
"""Having gone round, wait so many times as long before the next, where something presses."""
CALM: Final = 4.0
"""Seconds to wait for each take that it took, where nothing does: so that an idle process asks less
than once a second, its polls and heartbeats included."""
MOST_CALM: Final = 60.0
"""Seconds to wait at most."""


class Rounds:
    """See the module. A single thread uses it, but for :meth:`press`."""

    def __init__(self) -> None:
        self._pressed = True
        self._began_at = 0.0
        self._takes = 0
        self._over_at = -math.inf
        self._lasted = 0.0

    def press(self) -> None:
        """Say that one of the lanes may be free again; anybody may call."""
        self._pressed = True

    def due_at(self) -> float:
        """Return when the next may begin, in seconds of the clock; past while one is under way."""
        wait = min(MOST_CALM, CALM * self._takes)
        if self._pressed:  # one that waited for workers, or for the server, lasted for any time
            wait = min(wait, PRESSED * self._lasted)
        return self._over_at + wait

    @property
    def pressed(self) -> bool:
        """Whether somebody has pressed since the last began."""
        return self._pressed

    def step(self, now: float, *, first: bool) -> None:
        """Say that a take by lanes begins.

        Parameters:
            now: seconds of a monotonic clock.
            first: whether it begins with the first lane.
        """
        if first:
            self._pressed = False
            self._began_at, self._takes = now, 0
        self._over_at = -math.inf
        self._takes += 1

    def over(self, now: float) -> None:
        """Say that all lanes have been seen, and none was free."""
        self._over_at, self._lasted = now, now - self._began_at

"""A worker's life: one random id from a start to a stop, or to the day it is declared dead.

::

    alive ──(no heartbeat got through for one lease)──> expired   nothing new is begun
    alive, expired ──(a heartbeat gets through)───────> alive
    alive, expired ──(the database says: dead)────────> lost      a new session takes its place
"""

import secrets
import threading
import time
from collections.abc import Sequence

# The monotonic clock of Linux stands still while the machine is suspended, but leases run out.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now() -> float:
    """Return the time, in seconds, by which leases are judged; comparable with itself alone."""
    return time.clock_gettime(_CLOCK)


class Session:
    """The worker id under which leases are taken, and whether they can still be relied on.

    Parameters:
        lease: seconds that a worker may be silent before others take its keys over.

    The keeper writes, everyone reads.
    """

    def __init__(self, lease: float) -> None:
        self.id = secrets.randbits(63)
        self.lease = lease
        self._expires = now() + lease
        self._lost = False
        self._tokens = 0
        self._lock = threading.Lock()
        # Until when each is given back, once it was for the first time.
        self._doubts: dict[int, float | None] = {}

    @property
    def lost(self) -> bool:
        """Whether its leases may be somebody else's by now.

        The local deadline counts from when a heartbeat was *sent*, so it comes before the
        database's.
        """
        return self._lost or now() > self._expires

    @property
    def dead(self) -> bool:
        """Whether the database has declared it dead."""
        return self._lost

    def renew(self, sent_at: float) -> None:
        """Note a heartbeat that got through; ``sent_at`` is when it was sent, by :func:`now`."""
        self._expires = sent_at + self.lease

    def lose(self) -> None:
        """Note that the database declared it dead."""
        self._lost = True

    def next_token(self) -> int:
        """Return a token that no take of this session has had; the fetcher alone asks."""
        self._tokens += 1
        return self._tokens

    def doubt(self, token: int) -> None:
        """Note a take whose reply was lost: it may have won leases, now or a little later.

        It is given back for two leases from the first time on, because a backend that stalled may
        execute the take after that. While the machine is suspended nobody can, so that time does
        not count.
        """
        with self._lock:
            self._doubts[token] = None

    def doubts(self) -> list[int]:
        """Return the tokens to be given back."""
        moment = time.monotonic()
        with self._lock:
            for token, until in [*self._doubts.items()]:
                if until is not None and until <= moment:
                    del self._doubts[token]
            return list(self._doubts)

    def given_back(self, tokens: Sequence[int]) -> None:
        """Note that the database was asked to give these back."""
        until = time.monotonic() + 2 * self.lease
        with self._lock:
            for token in tokens:
                self._doubts[token] = self._doubts.get(token) or until

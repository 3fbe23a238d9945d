"""The way through the newest events, again and again, beside lanes that cannot be had.

It begins shortly before the first event that was free as it last went by: those of the same keys
that had to wait for it are behind. See :mod:`pgbus.core.walk`.
"""

from typing import Final

FIRST_EVENT: Final = -(2**63)
RECENT: Final = 1_000
"""How many ids before the first that was free to begin again: some events were committed later than
newer ones, or came while another of their key was in hand."""
MOST_GLANCES: Final = 64
"""So many steps before it begins again, whether it has come to the end or not."""


class Newest:
    """See the module.

    Parameters:
        most: events to look at in one step.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.start = FIRST_EVENT
        # Events to look at in the next step; 0: as many as are usual for so many lanes.
        self._visits = 2 * RECENT
        self._first_free: int | None = None
        self._glances = 0

    def visits(self, usual: int) -> int:
        """Return at how many events the next step is to look."""
        return self._visits or usual

    def note(self, found: int, live: int | None) -> None:
        """Learn what a step by arrival has found, wherever it went.

        Parameters:
            found: how many lanes.
            live: see :meth:`pgbus.core.walk.Walk.learn`.
        """
        if found and self._first_free is None:
            self._first_free = live

    def learn(self, visits: int, resume: int | None, live: int | None, *, helped: bool) -> bool:
        """Learn what became of a step through the newest.

        Parameters:
            visits: at how many events it was to look.
            resume: where to go on; ``None`` at the end.
            helped: whether it brought enough.

        Returns:
            Whether it came to the end.
        """
        self._glances += 1
        if resume is None or self._glances >= MOST_GLANCES:
            self.begin(live)
            return resume is None
        self.start = resume
        self._visits = 0 if helped else min(self._most, 2 * visits)
        return False

    def begin(self, live: int | None = None) -> None:
        """Begin again: where something was free, else with ``live``."""
        first = live if self._first_free is None else self._first_free
        if first is not None:
            self.start = max(FIRST_EVENT, first - RECENT)
        self._first_free, self._glances, self._visits = None, 0, 2 * RECENT

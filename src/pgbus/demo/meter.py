"""How fast counters run."""

import time
from collections import deque

BARS = "▁▂▃▄▅▆▇█"
HISTORY = 14
"""Bars of a sparkline."""
STEP = 0.4
"""Seconds a bar."""


class Meter:
    """How fast a counter runs; :meth:`read` is to be called regularly."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])
        self._history: deque[float] = deque([0.0] * HISTORY, maxlen=HISTORY)
        self._noted = time.monotonic()

    def read(self, value: int) -> float:
        """Return events a second over the last second."""
        now = time.monotonic()
        self._samples.append((now, value))
        while len(self._samples) > 2 and now - self._samples[0][0] > 1.0:
            self._samples.popleft()
        then, before = self._samples[0]
        rate = (value - before) / (now - then) if now > then else 0.0
        if now - self._noted >= STEP:
            self._noted = now
            self._history.append(rate)
        return rate

    def spark(self) -> str:
        """Return the last seconds as little bars."""
        most = max(*self._history, 1.0)
        return "".join(
            BARS[min(len(BARS) - 1, round(rate / most * (len(BARS) - 1)))] if rate else " "
            for rate in self._history
        )

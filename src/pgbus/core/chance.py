"""Chance of pgbus's own.

The application's ``random`` would not do: all of its processes may have seeded it alike, and would
go the same ways, at the same moments.
"""

from random import SystemRandom
from typing import Final

CHANCE: Final = SystemRandom()

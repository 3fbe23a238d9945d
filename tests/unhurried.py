"""Stops that take the time they need: what they leave behind is judged, not how long they take."""

from pgbus.threads import engine

LIMITS = ("SETTLED", "CANCELLED", "SIGNED_OFF", "ENDED", "PATIENCE")
"""Of the engine: how long a stop waits for what."""
SECONDS = 20.0


def unhurry() -> None:
    """Let every stop of this process settle and sign off, however slow the machine is."""
    for limit in LIMITS:
        setattr(engine, limit, SECONDS)

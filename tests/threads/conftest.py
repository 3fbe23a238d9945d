"""Fixtures of the tests of a running bus."""

import pytest

from pgbus.threads import engine


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop settles and signs off, however slow the machine is."""
    for limit in ("SETTLED", "CANCELLED", "SIGNED_OFF", "ENDED", "PATIENCE"):
        monkeypatch.setattr(engine, limit, 20.0)

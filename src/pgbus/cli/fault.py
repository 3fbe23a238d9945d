"""What a failed command says: one line, without a payload and without a password."""

from pgbus.errors import PgbusError

_LONGEST = 400


def describe(error: PgbusError) -> str:
    """Return the error's message."""
    line = " ".join((str(error) or type(error).__name__).split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"

"""What a failed command says: one line, without a payload and without a password."""

import psycopg

from pgbus.errors import PgbusError, StoreError

_LONGEST = 400


def describe(error: PgbusError) -> str:
    """Return the error's message, with libpq's reason where no connection could be made."""
    text = str(error) or type(error).__name__
    cause = error.__cause__
    if (
        isinstance(error, StoreError)
        and isinstance(cause, psycopg.OperationalError)
        and cause.sqlstate is None
    ):
        # It names host, port, user and database, but never a password or data.
        text = f"{text}: {cause}"
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"

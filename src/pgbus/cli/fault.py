"""What a failed command says: one line, without a payload and without a password."""

from pgbus.errors import PgbusError


def describe(error: PgbusError) -> str:
    """Return the error's message, whole: what to do comes last.

    Words of libpq in it were cut where they came in.
    """
    return " ".join((str(error) or type(error).__name__).split())

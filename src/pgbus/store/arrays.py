"""Arrays of numbers as PostgreSQL's text form.

psycopg chooses an array's type by its largest member, and with it another prepared statement; a
literal has one form, costs less to make, and may be empty.
"""

from collections.abc import Iterable


def numbers(values: Iterable[float | None]) -> str:
    """Return an array literal of numbers."""
    return "{" + repr(list(values))[1:-1].replace("None", "NULL") + "}"


def booleans(values: Iterable[bool]) -> str:
    """Return an array literal of booleans."""
    return "{" + ",".join("t" if value else "f" for value in values) + "}"

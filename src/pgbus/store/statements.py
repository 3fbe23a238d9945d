"""The SQL files of :mod:`pgbus.sql`: named statements and numbered migrations."""

import functools
import hashlib
import re
from dataclasses import dataclass, field
from importlib.resources import files

from psycopg import sql

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)
_MIGRATION = re.compile(r"(\d{4})_(\w+)\.sql")
_BREAKING = "-- breaking\n"


@functools.cache
def _statements(file: str) -> dict[str, str]:
    text = files("pgbus.sql").joinpath("queries", f"{file}.sql").read_text(encoding="utf-8")
    parts = _NAME.split(text)[1:]
    return dict(zip(parts[::2], (body.strip().rstrip(";") for body in parts[1::2]), strict=True))


@functools.cache
def statement(file: str, name: str, **identifiers: str) -> bytes:
    """Return the statement ``name`` of ``queries/<file>.sql`` with its identifiers filled in.

    Parameters:
        identifiers: values of the statement's ``{placeholders}``, each one quoted as an identifier
            in the schema ``pgbus``.
    """
    quoted = {key: sql.Identifier("pgbus", value) for key, value in identifiers.items()}
    return compose(file, name, **quoted).as_bytes()


def compose(file: str, name: str, **parts: sql.Composable) -> sql.Composed:
    """Return the statement ``name`` of ``queries/<file>.sql`` with its placeholders filled in."""
    return sql.SQL(_statements(file)[name]).format(**parts)


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered file of ``migrations/``."""

    number: int
    name: str
    text: str = field(repr=False)

    @property
    def checksum(self) -> str:
        """The SHA-256 of its text, as hexadecimal digits."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def breaking(self) -> bool:
        """Whether older releases of pgbus cannot work with the schema behind it."""
        return self.text.startswith(_BREAKING)


@functools.cache
def migrations() -> tuple[Migration, ...]:
    """Return all migrations of this release in order."""
    found = []
    for file in files("pgbus.sql").joinpath("migrations").iterdir():
        match = _MIGRATION.fullmatch(file.name)
        if match is not None:
            text = file.read_text(encoding="utf-8")
            found.append(Migration(int(match[1]), match[2], text))
    return tuple(sorted(found, key=lambda migration: migration.number))

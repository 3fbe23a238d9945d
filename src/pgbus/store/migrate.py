"""Installing: pgmq where it is missing, then pgbus's own migrations.

Migrations are append-only. A release runs on a newer schema unless a migration it does not know is
marked breaking, so that services can be upgraded one by one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import pgmq.install
import psycopg
from psycopg import sql

from pgbus.errors import IncompatibleDatabase, StoreError
from pgbus.store.query import Operation, Query, ask, ask_one, nothing, text
from pgbus.store.statements import Migration, migrations, statement

OLDEST_PGMQ = "1.11"


class Found(NamedTuple):
    """What a database has before the installation."""

    offers_extension: bool
    extension_version: str | None
    has_pgmq: bool
    capable: bool
    has_pgbus: bool


class Applied(NamedTuple):
    """A migration that a database remembers."""

    number: int
    name: str
    checksum: str
    breaking: bool


@dataclass(frozen=True, slots=True)
class Installed:
    """What an installation did."""

    pgmq: str
    """``extension``, ``sql`` or ``kept``."""
    migrations: tuple[str, ...]
    """The names of the migrations that it applied."""
    roles: tuple[str, ...]
    """The names of the roles that it created."""


def _script(text: str) -> Query[None]:
    return Query(text.encode(), None, nothing)


def install(
    pgmq_sql: Callable[[], str] = pgmq.install.get_embedded_install_sql,
    *,
    roles: str | None = None,
) -> Operation[Installed]:
    """Install pgmq and pgbus, in the caller's transaction; idempotent.

    Parameters:
        roles: what the names of the roles begin with that are to be created; ``None`` creates
            none, and lets those that there are have what new migrations bring.

    Raises:
        IncompatibleDatabase: the database has a pgmq older than 1.11, a pgbus schema that this
            release cannot work with, or a migration that was changed after it was applied.
    """
    yield from ask(Query(statement("migrate", "lock"), (), nothing))
    found = yield from ask_one(Query(statement("migrate", "found"), (), Found))
    kind = "kept"
    if not found.has_pgmq:
        kind = yield from _install_pgmq(found, pgmq_sql)
    elif not found.capable:
        raise IncompatibleDatabase(_too_old(found))
    if not found.has_pgbus:
        yield from ask(_script(statement("migrate", "create_migration").decode()))
    applied = yield from ask(Query(statement("migrate", "applied"), (), Applied))
    missing = pending(applied)
    for migration in missing:
        yield from ask(_script(migration.text))
        yield from ask(Query(statement("migrate", "record"), _record(migration), nothing))
    yield from ask(Query(statement("migrate", "attend_bindings"), (), nothing))
    made: list[str] = []
    if roles is None:
        yield from ask(Query(statement("migrate", "keep_roles"), (), nothing))
    else:
        made = yield from ask(Query(statement("migrate", "make_roles"), (roles,), text))
    return Installed(kind, tuple(migration.name for migration in missing), tuple(made))


def _install_pgmq(found: Found, pgmq_sql: Callable[[], str]) -> Operation[str]:
    if found.offers_extension:
        yield from ask(Query(statement("migrate", "create_extension"), (), nothing))
        again = yield from ask_one(Query(statement("migrate", "found"), (), Found))
        if not again.capable:
            raise IncompatibleDatabase(_too_old(again))
        return "extension"
    yield from ask(_script(pgmq_sql()))
    return "sql"


def _too_old(found: Found) -> str:
    version = f" {found.extension_version}" if found.extension_version else ""
    remedy = (
        "run ALTER EXTENSION pgmq UPDATE"
        if found.extension_version
        else "upgrade it as it was installed"
    )
    return (
        f"this database has pgmq{version}, and pgbus needs {OLDEST_PGMQ} or newer (topic "
        f"bindings): {remedy}, or choose another database"
    )


def _record(migration: Migration) -> tuple[int, str, str, bool]:
    return migration.number, migration.name, migration.checksum, migration.breaking


def pending(applied: list[Applied]) -> list[Migration]:
    """Return the migrations that are still to be applied.

    Raises:
        IncompatibleDatabase: an applied one was changed, or a newer release's is breaking.
    """
    known = {migration.number: migration for migration in migrations()}
    for row in applied:
        mine = known.pop(row.number, None)
        if mine is None:
            if row.breaking:
                raise IncompatibleDatabase(
                    f"the pgbus schema was made by a newer release: migration {row.number:04} "
                    f"({row.name}) is breaking; upgrade pgbus"
                )
        elif mine.checksum != row.checksum:
            raise IncompatibleDatabase(
                f"migration {row.number:04} ({row.name}) in the database differs from this "
                "release's: it was changed after it was applied; restore the file, or upgrade pgbus"
            )
    return list(known.values())


def check() -> Operation[None]:
    """Raise unless pgbus is installed, whole and compatible.

    Raises:
        StoreError: pgbus is not installed, or not up to this release's schema.
        IncompatibleDatabase: see :func:`pending`.
    """
    try:
        applied = yield from ask(Query(statement("migrate", "applied"), (), Applied))
    except (psycopg.errors.UndefinedFunction, psycopg.errors.InvalidSchemaName) as error:
        raise StoreError(NOT_INSTALLED) from error
    missing = pending(applied)
    if missing:
        raise StoreError(
            f"the pgbus schema in this database is older than this release: migration "
            f"{missing[0].number:04} ({missing[0].name}) is missing; call bus.install() or run "
            "'pgbus install'"
        )


NOT_INSTALLED = (
    "pgbus is not installed in this database: call bus.install() or run 'pgbus install' once"
)


def script(
    pgmq_sql: Callable[[], str] = pgmq.install.get_embedded_install_sql,
    *,
    roles: str | None = None,
) -> Iterator[str]:
    """Yield the SQL of a whole installation, for those who run migrations themselves.

    Parameters:
        roles: see :func:`install`.
    """
    yield (
        "-- pgmq: where the server offers the extension, run CREATE EXTENSION pgmq instead; where "
        f"pgmq {OLDEST_PGMQ} or newer exists already, leave this part out.\n"
    )
    yield "begin;\n" + pgmq_sql().rstrip() + "\ncommit;\n"
    yield "\n-- pgbus\nbegin;\n" + statement("migrate", "create_migration").decode() + ";\n"
    for migration in migrations():
        yield f"\n-- migration {migration.number:04} {migration.name}\n{migration.text.rstrip()}\n"
        values = sql.SQL(", ").join(sql.Literal(value) for value in _record(migration))
        insert = sql.SQL(
            "insert into pgbus.migration (number, name, checksum, breaking) values ({});\n"
        )
        yield insert.format(values).as_string()
    if roles is not None:
        make = sql.SQL("\n-- roles\nselect pgbus.make_roles({});\n")
        yield make.format(sql.Literal(roles)).as_string()
    yield "commit;\n"

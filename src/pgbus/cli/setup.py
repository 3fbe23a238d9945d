"""``install``, ``declare`` and ``run``."""

import sys
from typing import Annotated

import typer

from pgbus import Bus
from pgbus.cli.access import be_quiet, open_bus
from pgbus.cli.loader import load_bus
from pgbus.cli.logbook import Level, log_to_stderr
from pgbus.cli.options import Dsn, Json, ModuleDsn, Target
from pgbus.cli.printer import say, write_json
from pgbus.model.names import ROLES, check_prefix
from pgbus.store import migrate
from pgbus.store.query import run as run_operation
from pgbus.threads.link import connect, translated

_PGMQ = {
    "extension": "created the extension that the server offers",
    "sql": "installed from the SQL of the Python package pgmq",
    "kept": "was there already, and is left as it is",
}


def install(
    dsn: Dsn = None,
    show: Annotated[
        bool,
        typer.Option(
            "--print",
            help="Print the SQL instead, for those who run migrations themselves; needs no "
            "database.",
        ),
    ] = False,
    roles: Annotated[
        bool,
        typer.Option(
            "--roles",
            help="Also create the roles that are missing for those who may do only some of it, "
            "one for each subscription among them.",
        ),
    ] = False,
    role_prefix: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What the names of the roles begin with; wants --roles.",
            show_default=ROLES,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Create what pgmq and pgbus need in the database.

    Idempotent, and safe for many at once: run it with every deployment.
    """
    if role_prefix is not None and not roles:
        raise typer.BadParameter("--role-prefix names the roles of --roles: give that, too")
    prefix = check_prefix(roles if role_prefix is None else role_prefix)
    if show:
        if as_json:
            raise typer.BadParameter("--print prints SQL: leave --json out")
        sys.stdout.writelines(migrate.script(roles=prefix))
        return
    with (
        open_bus(dsn) as bus,
        translated(),
        connect(bus.dsn, name="pgbus install") as connection,
        connection.transaction(),
    ):
        done = run_operation(connection, migrate.install(roles=prefix))
    if as_json:
        write_json(done)
        return
    say(f"pgmq   {_PGMQ[done.pgmq]}")
    names = ", ".join(done.migrations)
    say(f"pgbus  applied {names}" if names else "pgbus  is up to date")
    if roles:
        created = ", ".join(done.roles)
        say(f"roles  created {created}" if created else "roles  are up to date")


def declare(target: Target, dsn: ModuleDsn = None, as_json: Json = False) -> None:
    """Create and bind a bus's queues without running handlers.

    Run it before the publishers of a new subscription start, so that no early event is missed.
    """
    be_quiet()
    with load_bus(target, dsn) as bus:
        bus.declare()
        bound = _own_bindings(bus)
    if as_json:
        write_json([{"name": name, "bindings": patterns} for name, patterns in bound.items()])
        return
    if not bound:
        say(f"{target} has no subscriptions: nothing to declare")
    for name, patterns in bound.items():
        say(f"{name}  {' '.join(patterns)}")


def _own_bindings(bus: Bus) -> dict[str, list[str]]:
    bound: dict[str, list[str]] = {name: [] for name in sorted(bus._names())}
    for binding in bus.bindings():
        if binding.queue in bound:
            bound[binding.queue].append(binding.pattern)
    return bound


def run(
    target: Target,
    dsn: ModuleDsn = None,
    grace: Annotated[
        float,
        typer.Option(
            min=0, metavar="SECONDS", help="How long handlers may go on once it is to stop."
        ),
    ] = 30.0,
    log_level: Annotated[Level, typer.Option(help="What to log to stderr.")] = Level.info,
) -> None:
    """Run a bus's handlers until SIGTERM or SIGINT, then drain.

    A second signal ends the process at once.
    """
    log_to_stderr(log_level)
    with load_bus(target, dsn) as bus:
        bus.run(timeout=grace)

"""The commands, and what is the same for all: errors become one line, and an exit code."""

import sys
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from pgbus.cli import (
    asyncapi,
    demo,
    letters,
    publish,
    schema,
    setup,
    status,
    subscriptions,
    tail,
)
from pgbus.cli.fault import describe
from pgbus.errors import PgbusError

FAILED = 1


class Commands(TyperGroup):
    """Ends a command that failed with one line and exit code 1."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except PgbusError as error:
            sys.stdout.flush()
            typer.echo(f"pgbus: {describe(error)}", err=True)
            raise typer.Exit(FAILED) from error


app = typer.Typer(
    name="pgbus",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
    help="""An embedded, typed publish/subscribe bus on PostgreSQL.

    Every command works on the database of --dsn, else of $PGBUS_DSN, else on the PostgreSQL that
    comes with pgbus\\[embedded].

    Exit codes: 0 ok, 1 failed, 2 wrong usage.""",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pgbus {version('pgbus')}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    pass


_SET_UP = "Setting up and running"
_LOOK = "Publishing and looking"
_AFTER = "Looking after"
_CONTRACTS = "Contracts"

app.command(rich_help_panel=_SET_UP)(demo.demo)
app.command(rich_help_panel=_SET_UP)(setup.install)
app.command(rich_help_panel=_SET_UP)(setup.declare)
app.command(rich_help_panel=_SET_UP)(setup.run)
app.command(rich_help_panel=_LOOK)(publish.publish)
app.command(rich_help_panel=_LOOK)(status.status)
app.command(rich_help_panel=_LOOK)(subscriptions.bindings)
app.command(rich_help_panel=_LOOK)(tail.tail)
app.add_typer(subscriptions.app, name="subscription", rich_help_panel=_AFTER)
app.add_typer(letters.app, name="dlq", rich_help_panel=_AFTER)
app.add_typer(schema.app, name="schema", rich_help_panel=_CONTRACTS)
app.command(rich_help_panel=_CONTRACTS)(asyncapi.asyncapi)

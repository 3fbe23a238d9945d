"""The options that several commands have."""

from typing import Annotated

import typer

Dsn = Annotated[
    str | None,
    typer.Option(
        "--dsn",
        envvar="PGBUS_DSN",
        metavar="DSN",
        show_default=False,
        help="The database, as a PostgreSQL URI or libpq connection string. Left out, the "
        "embedded PostgreSQL.",
    ),
]

ModuleDsn = Annotated[
    str | None,
    typer.Option(
        "--dsn",
        metavar="DSN",
        show_default=False,
        help="The database of a Bus() that names none; $PGBUS_DSN does the same.",
    ),
]

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

Target = Annotated[
    str,
    typer.Argument(
        metavar="MODULE:BUS",
        help="Where the bus is: a module, importable from the current folder, and the bus's name "
        "in it.",
        show_default=False,
    ),
]

Name = Annotated[str, typer.Argument(metavar="NAME", help="The subscription.", show_default=False)]

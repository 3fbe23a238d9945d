"""``bindings``, ``subscription drop`` and ``subscription rename``."""

from typing import Annotated

import typer

from pgbus.cli.access import open_bus
from pgbus.cli.options import Dsn, Json, Name
from pgbus.cli.printer import Column, print_table, say, write_json
from pgbus.model.names import TAIL_PREFIX

app = typer.Typer(help="Drop or rename subscriptions.", no_args_is_help=True)

_COLUMNS = (
    Column("queue", style="bold"),
    Column("pattern", style="cyan"),
    Column("made by"),
)


def bindings(dsn: Dsn = None, as_json: Json = False) -> None:
    """Show which patterns lead to which queues, whoever bound them.

    A pattern with '#' is bound once with and once without each '#', because pgmq's '#' needs at
    least one word.
    """
    with open_bus(dsn) as bus:
        found = bus.bindings()
    made_by = [
        "tail" if one.queue.startswith(TAIL_PREFIX) else "pgbus" if one.ours else "others"
        for one in found
    ]
    if as_json:
        write_json(
            [
                {"queue": one.queue, "pattern": one.pattern, "made_by": who}
                for one, who in zip(found, made_by, strict=True)
            ]
        )
    elif found:
        rows = ((one.queue, one.pattern, who) for one, who in zip(found, made_by, strict=True))
        print_table(_COLUMNS, rows)
    else:
        say("no bindings yet: 'pgbus declare module:bus' or bus.declare() makes them")


@app.command()
def drop(
    name: Name,
    dsn: Dsn = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also where it still holds events or dead letters.")
    ] = False,
) -> None:
    """Drop a subscription for good: its queue, bindings and dead letters.

    Refused while a running worker uses it.
    """
    with open_bus(dsn) as bus:
        bus.drop_subscription(name, force=force)
    say(f"dropped {name}")


@app.command()
def rename(
    old: Annotated[str, typer.Argument(metavar="OLD", help="Its name.", show_default=False)],
    new: Annotated[
        str, typer.Argument(metavar="NEW", help="What it is called then.", show_default=False)
    ],
    dsn: Dsn = None,
) -> None:
    """Rename a subscription with its events, bindings and dead letters.

    Refused while a running worker uses it.
    """
    with open_bus(dsn) as bus:
        bus.rename_subscription(old, new)
    say(f"renamed {old} to {new}")

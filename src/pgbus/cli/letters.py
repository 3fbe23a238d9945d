"""``dlq``: dead letters."""

import sys
from collections.abc import Iterable
from dataclasses import fields
from itertools import islice
from typing import Annotated, Any
from uuid import UUID

import msgspec
import typer

from pgbus import Bus, DeadLetter
from pgbus.cli.access import open_bus
from pgbus.cli.options import Dsn, Json, Name
from pgbus.cli.printer import (
    Column,
    clean,
    count,
    output,
    print_table,
    say,
    shorten,
    write_json,
)
from pgbus.errors import ConfigurationError

app = typer.Typer(help="Look at dead letters, put them back, drop them.", no_args_is_help=True)

_COLUMNS = (
    Column("number", right=True),
    Column("id", style="dim"),
    Column("topic", style="cyan"),
    Column("key"),
    Column("attempts", right=True),
    Column("last at"),
    Column("error", style="red", wrap=True),
)
_LONGEST_ERROR = 200

Ids = Annotated[
    list[UUID] | None,
    typer.Argument(metavar="ID", help="The events' ids; left out, all.", show_default=False),
]


@app.command("list")
def show_all(
    name: Name,
    dsn: Dsn = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most, oldest first.")] = 100,
    as_json: Json = False,
) -> None:
    """List a subscription's dead letters, oldest first."""
    with open_bus(dsn) as bus:
        found = list(islice(bus.dead_letters(name), limit + 1))
    more = len(found) > limit
    found = found[:limit]
    if as_json:
        write_json([_as_object(letter) for letter in found])
        return
    if not found:
        say(f"{name} has no dead letters")
        return
    print_table(_COLUMNS, map(_cells, found))
    if more:
        say(f"… there are more: --limit {2 * limit}")


def _cells(letter: DeadLetter) -> list[str]:
    error = letter.error.partition("\n")[0]
    return [
        str(letter.number),
        str(letter.id or "-"),
        clean(letter.topic or "-"),
        clean(letter.key or "-"),
        str(letter.attempts),
        f"{letter.last_at.astimezone():%Y-%m-%d %H:%M:%S}" if letter.attempts else "-",
        shorten(clean(error), _LONGEST_ERROR),
    ]


@app.command()
def show(
    name: Name,
    which: Annotated[
        str,
        typer.Argument(
            metavar="ID",
            help="The event's id, or the dead letter's number in the list.",
            show_default=False,
        ),
    ],
    dsn: Dsn = None,
    as_json: Json = False,
) -> None:
    """Show one dead letter whole: body, headers, error and traceback."""
    with open_bus(dsn) as bus:
        letter = _find(bus, name, which)
    if as_json:
        write_json(_as_object(letter))
        return
    console = output()
    facts = {
        "id": letter.id,
        "number": letter.number,
        "topic": letter.topic,
        "key": letter.key,
        "attempts": letter.attempts,
        "first": letter.first_at.isoformat(sep=" ", timespec="seconds"),
        "last": letter.last_at.isoformat(sep=" ", timespec="seconds"),
        "error": letter.error,
    }
    for title, value in facts.items():
        text = "-" if value is None else _clean_lines(str(value))
        console.print(f"{title:<10}", style="bold", end="", markup=False)
        console.print(text, markup=False, style="red" if title == "error" else None, soft_wrap=True)
    for title, part in (("body", letter.body), ("headers", letter.headers)):
        console.print(f"\n{title}", style="bold")
        text = msgspec.json.format(msgspec.json.encode(part), indent=2).decode()
        console.print(_clean_lines(text), markup=False, soft_wrap=True)
    if letter.traceback:
        console.print("\ntraceback", style="bold")
        console.print(_clean_lines(letter.traceback.rstrip()), markup=False, soft_wrap=True)


def _clean_lines(text: str) -> str:
    return "\n".join(clean(line) for line in text.split("\n"))


def _find(bus: Bus, name: str, which: str) -> DeadLetter:
    try:
        wanted: UUID | int = int(which) if which.isdecimal() else UUID(which)
    except ValueError:
        raise typer.BadParameter(f"{which!r} is neither an id nor a number") from None
    for letter in bus.dead_letters(name):
        if wanted in (letter.id, letter.number):
            return letter
    raise ConfigurationError(f"{name} has no dead letter {which}")


@app.command()
def redrive(
    name: Name,
    ids: Ids = None,
    dsn: Dsn = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="How many at most, oldest first.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Put dead letters back into their subscription, at their old place within their key."""
    with open_bus(dsn) as bus:
        moved = bus.redrive(name, ids or None, limit)
    _report("redriven", moved, ids or (), limit, as_json=as_json)


@app.command()
def drop(
    name: Name,
    ids: Ids = None,
    dsn: Dsn = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Drop all of them; needed where no id is given.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Drop dead letters for good. Asks first, on a terminal."""
    if bool(ids) == everything:
        raise typer.BadParameter("say which: either ids, or --all")
    if not yes and sys.stdin.isatty():
        what = count(len(ids), "dead letter") if ids else "all dead letters"
        if not typer.confirm(f"Drop {what} of {name} for good?", err=True):
            raise typer.Exit(1)
    with open_bus(dsn) as bus:
        dropped = bus.drop_dead_letters(name, ids or None)
    _report("dropped", dropped, ids or (), None, as_json=as_json)


def _report(
    done: str, number: int, ids: Iterable[UUID], limit: int | None, *, as_json: bool
) -> None:
    if as_json:
        write_json({done: number})
    else:
        say(f"{done} {count(number, 'dead letter')}")
    wanted = len(set(ids))
    if number < min(wanted, limit or wanted):
        raise ConfigurationError(f"{wanted - number} of the ids given are no dead letters there")


def _as_object(letter: DeadLetter) -> dict[str, Any]:
    return {field.name: getattr(letter, field.name) for field in fields(letter)}

"""``schema list``, ``show``, ``diff`` and ``forget``: the registry of event types."""

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import typer

from pgbus.cli.access import open_bus
from pgbus.cli.contracts import find_types, find_version, read_known, registry
from pgbus.cli.options import Dsn, Json
from pgbus.cli.printer import Column, age, clean, count, print_table, remark, say, write_json
from pgbus.cli.schema_check import change_object, check, describe
from pgbus.cli.schema_files import codegen, export
from pgbus.core.changes import compare
from pgbus.core.recorded import Acceptor, Publishing, Recorded
from pgbus.core.review import Known
from pgbus.errors import ConfigurationError
from pgbus.store import schemas
from pgbus.store.query import run

app = typer.Typer(
    help="Look at the event types that services share, check changes, write them out.",
    no_args_is_help=True,
)
app.command()(check)

_COLUMNS = (
    Column("topic", style="cyan"),
    Column("version", right=True),
    Column("type", style="bold"),
    Column("key"),
    Column("recorded"),
    Column("published by", wrap=True),
    Column("accepted by", wrap=True),
)

Topic = Annotated[
    str, typer.Argument(metavar="TOPIC", help="The event type's topic.", show_default=False)
]
Version = Annotated[
    int | None,
    typer.Argument(
        metavar="VERSION", min=1, help="Its version; left out, the newest.", show_default=False
    ),
]


@app.command("list")
def show_all(dsn: Dsn = None, as_json: Json = False) -> None:
    """List the event types that services recorded, who publishes them, who accepts them."""
    with open_bus(dsn) as bus:
        known = read_known(bus)
    if as_json:
        write_json([_as_object(one, known) for one in known.recorded])
    elif known.recorded:
        print_table(_COLUMNS, (_cells(one, known) for one in known.recorded))
    else:
        say("no event types yet: services record theirs when they start or first publish")


def _cells(one: Recorded, known: Known) -> list[str]:
    schema = one.schema
    return [
        clean(schema.topic),
        str(schema.version),
        clean(schema.name),
        clean(schema.key or "-"),
        f"{one.at.astimezone():%Y-%m-%d} by {clean(one.by)}",
        ", ".join(_publisher(each) for each in _publishers(one, known)) or "-",
        ", ".join(_names(_acceptors(one, known))) or "-",
    ]


def _publishers(one: Recorded, known: Known) -> list[Publishing]:
    place = (one.schema.topic, one.schema.version)
    return [each for each in known.publishers if (each.topic, each.version) == place]


def _publisher(one: Publishing) -> str:
    release = clean(f"{one.service} {one.service_version}".rstrip())
    return f"{release} ({count(one.hosts, 'host')}, {age(one.seen)} ago)"


def _acceptors(one: Recorded, known: Known) -> list[Acceptor]:
    """Return the live workers that have the type in their handler's annotation."""
    place = (one.schema.topic, one.schema.version)
    return [
        worker
        for worker in known.acceptors
        if any((each.topic, each.version) == place for each in worker.accepted)
    ]


def _names(workers: Sequence[Acceptor]) -> list[str]:
    return sorted({worker.subscription for worker in workers})


def _as_object(one: Recorded, known: Known) -> dict[str, Any]:
    return {
        "topic": one.schema.topic,
        "version": one.schema.version,
        "name": one.schema.name,
        "key": one.schema.key,
        "fingerprint": one.schema.fingerprint,
        "recorded_by": one.by,
        "recorded_at": one.at,
        "publishers": [
            {
                "service": each.service,
                "service_version": each.service_version,
                "hosts": each.hosts,
                "downcasts": each.downcasts,
                "seen": round(each.seen.total_seconds(), 3),
            }
            for each in _publishers(one, known)
        ],
        "acceptors": [
            {
                "subscription": each.subscription,
                "service": each.service,
                "service_version": each.service_version,
                "host": each.host,
                "pid": each.pid,
                "seen": round(each.seen.total_seconds(), 3),
            }
            for each in _acceptors(one, known)
        ],
    }


@app.command()
def show(topic: Topic, version: Version = None, dsn: Dsn = None, as_json: Json = False) -> None:
    """Show one event type: its JSON Schema, who recorded, publishes and accepts it."""
    with open_bus(dsn) as bus:
        found = find_types(bus, topic)
        known = read_known(bus)
    one = found[-1] if version is None else find_version(found, version)
    if as_json:
        write_json({**_as_object(one, known), "schema": one.schema.document})
        return
    facts = {
        "type": clean(one.schema.name),
        "key": clean(one.schema.key or "-"),
        "fingerprint": one.schema.fingerprint,
        "recorded": f"{one.at.astimezone():%Y-%m-%d %H:%M:%S} by {clean(one.by)}",
        "versions": ", ".join(str(each.schema.version) for each in found),
        "published": ", ".join(map(_publisher, _publishers(one, known))) or "-",
        "accepted": ", ".join(map(_acceptor, _acceptors(one, known))) or "-",
    }
    say(one.schema.label)
    for title, text in facts.items():
        say(f"  {title:<12}{text}")
    lines = msgspec.json.format(msgspec.json.encode(one.schema.document), indent=2).decode()
    for line in lines.split("\n"):
        say(clean(line))


def _acceptor(one: Acceptor) -> str:
    release = clean(f"{one.service} {one.service_version}".rstrip())
    return f"{one.subscription} ({release} on {clean(one.host)}, seen {age(one.seen)} ago)"


@app.command()
def diff(
    topic: Topic,
    old: Annotated[
        int | None,
        typer.Argument(
            metavar="OLD", min=1, help="Left out, the one before NEW.", show_default=False
        ),
    ] = None,
    new: Annotated[
        int | None,
        typer.Argument(metavar="NEW", min=1, help="Left out, the newest.", show_default=False),
    ] = None,
    dsn: Dsn = None,
    as_json: Json = False,
) -> None:
    """Compare two versions of an event type, field by field, and say which reads which."""
    with open_bus(dsn) as bus:
        found = find_types(bus, topic)
    newer = found[-1] if new is None else find_version(found, new)
    earlier = [one for one in found if one.schema.version < newer.schema.version]
    if old is None and not earlier:
        raise ConfigurationError(f"{newer.schema.label} has no earlier version in the registry")
    older = earlier[-1] if old is None else find_version(found, old)
    verdict = compare(older.schema.document, newer.schema.document)
    versions = older.schema.version, newer.schema.version
    if as_json:
        write_json(
            {
                "topic": topic,
                "old": versions[0],
                "new": versions[1],
                "backward": verdict.backward,
                "forward": verdict.forward,
                "changes": [change_object(change) for change in verdict.changes],
            }
        )
        return
    for change in verdict.changes:
        say(clean(describe(change)))
    say(f"version {versions[1]} {_reads(verdict.backward)} version {versions[0]}")
    say(f"version {versions[0]} {_reads(verdict.forward)} version {versions[1]}")


def _reads(does: bool) -> str:
    return "reads" if does else "does not read"


@app.command()
def forget(
    topic: Topic,
    version: Annotated[
        int, typer.Argument(metavar="VERSION", min=1, help="Its version.", show_default=False)
    ],
    dsn: Dsn = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Forget an event type: the next service to start or publish records it anew.

    For a version of which no event is stored any more, or never was. Asks first, on a terminal.
    """
    if not yes and sys.stdin.isatty():
        question = f"Forget {topic} version {version}? Events of it may still be stored."
        if not typer.confirm(question, err=True):
            raise typer.Exit(1)
    with open_bus(dsn) as bus:
        known = read_known(bus)
        with registry(bus) as connection:
            forgotten = run(connection, schemas.forget(topic, version))
    if not forgotten:
        raise ConfigurationError(f"the registry knows no version {version} of {topic!r}")
    say(f"forgot {topic} version {version}")
    users = [one for one in known.recorded if one.schema.label == f"{topic} version {version}"]
    for name in _names([worker for one in users for worker in _acceptors(one, known)]):
        remark(f"live workers of {name} still take it as it was")


app.command()(export)
app.command()(codegen)

"""``schema export`` and ``schema codegen``: what the registry knows, as files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from pgbus import Bus
from pgbus.cli.access import open_bus
from pgbus.cli.contracts import registry
from pgbus.cli.options import Dsn
from pgbus.cli.printer import count, remark, say
from pgbus.core.codegen import write_module
from pgbus.core.patterns import check_pattern, matches
from pgbus.core.schema import EventSchema
from pgbus.errors import ConfigurationError
from pgbus.model.names import check_topic
from pgbus.store import schemas
from pgbus.store.query import run

DIALECT = "https://json-schema.org/draft/2020-12/schema"

Patterns = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="PATTERN", help="Only of topics that match one of them.", show_default=False
    ),
]
Newest = Annotated[bool, typer.Option("--newest", help="Only the newest version of each topic.")]


def export(
    patterns: Patterns = None,
    dsn: Dsn = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="Write a file for each type, TOPIC.vVERSION.json; left out, one object to stdout.",
            show_default=False,
        ),
    ] = None,
    newest: Newest = False,
) -> None:
    """Write the JSON Schemas (2020-12) of the registered event types.

    The same registry gives the same files. Files of other types in the folder are left alone.
    """
    with open_bus(dsn) as bus:
        chosen = choose(bus, patterns or [], newest=newest)
    documents = {f"{one.topic}.v{one.version}": _document(one) for one in chosen}
    if output is None:
        say(_pretty(documents))
        return
    for name, document in documents.items():
        write(output / f"{name}.json", _pretty(document) + "\n")
    remark(f"wrote {count(len(documents), 'schema')} to {output}")


def codegen(
    patterns: Patterns = None,
    dsn: Dsn = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="The module; left out, stdout.",
            show_default=False,
        ),
    ] = None,
    newest: Newest = False,
) -> None:
    """Write a Python module with the registered event types, for a service without their code.

    The types have the fingerprints of those that were recorded. The same registry gives the same
    text.
    """
    with open_bus(dsn) as bus:
        chosen = choose(bus, patterns or [], newest=newest)
    source = write_module(chosen)
    if output is None:
        say(source.rstrip("\n"))
        return
    write(output, source)
    remark(f"wrote {count(len(chosen), 'event type')} to {output}")


def choose(bus: Bus, patterns: Sequence[str], *, newest: bool) -> list[EventSchema]:
    """Return the recorded schemas of topics that match, by topic and version.

    Raises:
        ConfigurationError: there are none.
        InvalidPattern: a pattern is none.
        InvalidTopic: somebody recorded a topic that is none.
        StoreError: the database refused, could not be reached, or has no pgbus.
    """
    for pattern in patterns:
        check_pattern(pattern)
    with registry(bus) as connection:
        recorded = run(connection, schemas.event_types())
    found = [
        one.schema
        for one in recorded
        if not patterns or any(matches(pattern, one.schema.topic) for pattern in patterns)
    ]
    if not found:
        raise ConfigurationError(
            "the registry knows no such event type"
            if patterns
            else "the registry knows no event types: services record theirs when they start"
        )
    for one in found:
        check_topic(one.topic)
    last = {one.topic: one.version for one in found}
    return [one for one in found if not newest or one.version == last[one.topic]]


def write(path: Path, text: str) -> None:
    """Write a file, and the folders that lead to it.

    Raises:
        ConfigurationError: it cannot be written, and why.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}") from error


def _document(one: EventSchema) -> dict[str, object]:
    name = f"urn:pgbus:{one.topic}:{one.version}"
    return {"$schema": DIALECT, "$id": name, "title": one.label, **one.document}


def _pretty(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()

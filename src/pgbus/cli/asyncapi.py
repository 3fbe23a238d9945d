"""``asyncapi``: a bus as a document that tools of others read."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from pgbus.cli.access import be_quiet
from pgbus.cli.contracts import code_subjects, code_takers, read_known
from pgbus.cli.loader import load_bus
from pgbus.cli.options import ModuleDsn, Target
from pgbus.cli.printer import remark, say
from pgbus.cli.schema_files import write
from pgbus.core.asyncapi import Operation, write_document
from pgbus.core.patterns import check_pattern, matches
from pgbus.core.review import Known, Taker
from pgbus.core.schema import EventSchema

_UNKNOWN = "0.0.0"


def asyncapi(
    target: Target,
    dsn: ModuleDsn = None,
    sends: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="The service publishes the types of these topics. Repeatable.",
            show_default=False,
        ),
    ] = None,
    registry: Annotated[
        bool,
        typer.Option(
            "--registry",
            help="Ask the database, too: for what the service was seen to publish, and for the "
            "versions of its topics that its own code does not have.",
        ),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Left out, stdout.", show_default=False
        ),
    ] = None,
) -> None:
    """Write an AsyncAPI 3.0 document of a bus, in JSON.

    A channel for each topic of the code's event types, a message for each version, an operation for
    each topic that a subscription receives, or that the service sends. What a service sends, its
    code does not tell: say it by --sends, or let --registry look. Without --registry, no database
    is needed.
    """
    be_quiet()
    for pattern in sends or []:
        check_pattern(pattern)
    with load_bus(target, dsn) as bus:
        known = read_known(bus) if registry else Known((), (), ())
        takers = code_takers(bus)
        service = bus._given_service
        title = service or target.partition(":")[0].partition(".")[0]
        release = bus._contracts.service_version or _UNKNOWN
    sent = {one.topic for one in known.publishers if one.service == service}
    schemas = _schemas(takers, sent, known)
    sent |= {one.topic for one in schemas if any(matches(each, one.topic) for each in sends or [])}
    operations = [*_received(takers, schemas), *_sent(sent, schemas)]
    document = write_document(title, release, schemas, operations)
    text = msgspec.json.format(msgspec.json.encode(document), indent=2).decode()
    if output is None:
        say(text)
        return
    write(output, text + "\n")
    remark(f"wrote {output}")


def _schemas(takers: list[Taker], sent: set[str], known: Known) -> list[EventSchema]:
    """Return the types of the code, and of its topics those that only the registry knows."""
    found = {(one.schema.topic, one.schema.version): one.schema for one in code_subjects()}
    patterns = [pattern for one in takers for pattern in one.patterns]
    for one in known.recorded:
        topic = one.schema.topic
        if topic in sent or any(matches(pattern, topic) for pattern in patterns):
            found.setdefault((topic, one.schema.version), one.schema)
    return list(found.values())


def _received(takers: list[Taker], schemas: list[EventSchema]) -> list[Operation]:
    made = []
    for one in takers:
        versions: dict[str, list[int]] = {}
        for schema in schemas:
            takes = one.any_type or f"{schema.topic}@{schema.version}" in one.types
            if takes and any(matches(pattern, schema.topic) for pattern in one.patterns):
                versions.setdefault(schema.topic, []).append(schema.version)
        made += [
            Operation(
                f"{one.name}.{topic}",
                "receive",
                topic,
                tuple(sorted(taken)),
                f"Subscription {one.name} handles it.",
            )
            for topic, taken in versions.items()
        ]
    return made


def _sent(topics: set[str], schemas: list[EventSchema]) -> list[Operation]:
    return [
        Operation(
            f"send.{topic}",
            "send",
            topic,
            tuple(sorted(one.version for one in schemas if one.topic == topic)),
            "The service publishes it.",
        )
        for topic in sorted(topics)
    ]

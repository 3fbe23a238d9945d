"""``publish``: one event from an argument, or many from JSON lines."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO
from uuid import UUID

import typer
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)

from pgbus import Bus, Receipt
from pgbus.cli.access import open_bus
from pgbus.cli.lines import Line, Template, batches
from pgbus.cli.options import Dsn, Json
from pgbus.cli.outbox import Outbox
from pgbus.cli.printer import complaints, count, say, write_json
from pgbus.errors import ConfigurationError


def publish(
    topic: Annotated[
        str | None,
        typer.Argument(
            metavar="TOPIC",
            help="Where to. With --topic-field it serves bodies without the field, and may be "
            "left out.",
            show_default=False,
        ),
    ] = None,
    body: Annotated[
        str | None,
        typer.Argument(
            metavar="JSON",
            help="The event's body, or '-' for JSON lines from stdin.",
            show_default=False,
        ),
    ] = None,
    file: Annotated[
        str | None,
        typer.Option(
            "--file", "-f", metavar="FILE", help="JSON lines, one body a line; '-' is stdin."
        ),
    ] = None,
    topic_field: Annotated[
        str | None,
        typer.Option(metavar="FIELD", help="The body's field that names its topic, as in a.b."),
    ] = None,
    key: Annotated[str | None, typer.Option(help="The key, whose events stay in order.")] = None,
    key_field: Annotated[
        str | None,
        typer.Option(metavar="FIELD", help="The body's field that is its key, as in order.id."),
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option("--header", "-H", metavar="NAME=VALUE", help="A header; repeatable."),
    ] = None,
    delay: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Deliver it so much later.")
    ] = None,
    event_id: Annotated[
        UUID | None,
        typer.Option(
            "--id", help="The event's id: publishing it again does nothing. For one event."
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail where no subscription matches.")
    ] = False,
    dsn: Dsn = None,
    as_json: Json = False,
) -> None:
    """Publish one event, or one for each line of a file or of stdin.

    Lines go in batches of up to 500, each published as a whole or not at all; a failure says up to
    which line events were published. Bodies are sent as they are written.

    pgbus publish orders.created '{"order_id": "17"}' --key 17

    pgbus publish --topic-field type --key-field order.id --file events.jsonl
    """
    if topic_field is not None and topic is not None and body is None and file is None:
        topic, body = None, topic  # the only argument is the body: its topic is inside
    if body == "-" and file is None:
        body, file = None, "-"
    if (body is None) == (file is None):
        raise typer.BadParameter("give either JSON, or --file, or '-' for stdin")
    if topic is None and topic_field is None:
        raise typer.BadParameter("give a TOPIC, or --topic-field")
    if key is not None and key_field is not None:
        raise typer.BadParameter("give either --key or --key-field")
    if event_id is not None and file is not None:
        raise typer.BadParameter("--id is for one event")
    template = Template(topic, topic_field, key, key_field, _headers(header or ()), delay)
    with open_bus(dsn, on_unroutable="raise" if strict else "ignore") as bus:
        if body is not None:
            _publish_one(bus, template, body, event_id, as_json=as_json)
        else:
            assert file is not None
            _publish_lines(bus, template, file, as_json=as_json)


def _headers(given: Sequence[str]) -> dict[str, str]:
    headers = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise typer.BadParameter("a --header is NAME=VALUE")
        headers[name] = value
    return headers


def _publish_one(
    bus: Bus, template: Template, body: str, event_id: UUID | None, *, as_json: bool
) -> None:
    event = template.event(body.encode(errors="surrogateescape"))
    receipt = bus.publish(
        event.topic,
        event.payload,
        key=event.key,
        headers=event.headers,
        delay=event.delay,
        id=event_id,
    )
    if as_json:
        write_json(_as_object(receipt))
    elif receipt.duplicate:
        say(f"{receipt.id} was published before: nothing was stored")
    else:
        say(f"{receipt.id} {receipt.topic} to {count(receipt.queues, 'queue')}")


def _publish_lines(bus: Bus, template: Template, file: str, *, as_json: bool) -> None:
    def report(receipts: Sequence[Receipt]) -> None:
        if as_json:
            for receipt in receipts:
                write_json(_as_object(receipt), line=True)

    outbox = Outbox(bus, template, report)
    with _opened(file) as stream, _progress(stream) as progress:
        task = progress.add_task("publishing", total=_size(stream), events=0)
        for lines in batches(stream):
            outbox.publish(lines)
            progress.update(task, advance=_length(lines), events=outbox.published)
    if as_json:
        return
    say(
        f"{count(outbox.published, 'event')} published under {count(len(outbox.topics), 'topic')} "
        f"in {outbox.seconds:.1f} s"
    )
    if outbox.unrouted:
        say(f"{count(outbox.unrouted, 'event')} reached no queue: no subscription matched")


def _as_object(receipt: Receipt) -> dict[str, object]:
    return {
        "id": receipt.id,
        "topic": receipt.topic,
        "queues": receipt.queues,
        "duplicate": receipt.duplicate,
    }


@contextmanager
def _opened(file: str) -> Iterator[BinaryIO]:
    if file == "-":
        yield sys.stdin.buffer
        return
    try:
        stream = Path(file).open("rb")  # noqa: SIM115 - closed below
    except OSError as error:
        raise ConfigurationError(f"cannot read {file}: {error.strerror}") from error
    with stream:
        yield stream


def _size(stream: BinaryIO) -> int | None:
    """Return how many bytes there are, where that is known."""
    try:
        return os.fstat(stream.fileno()).st_size or None
    except (OSError, ValueError):
        return None


def _length(lines: Sequence[Line]) -> int:
    return sum(len(line.text) + 1 for line in lines)


def _progress(stream: BinaryIO) -> Progress:
    """Return a progress bar on stderr, which shows nothing where that is no terminal."""
    console = complaints()
    known = (BarColumn(), TaskProgressColumn()) if _size(stream) else ()
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        *known,
        TextColumn("{task.fields[events]:,} events"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )

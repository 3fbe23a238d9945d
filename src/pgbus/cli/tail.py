"""``tail``: live events of some patterns, without consuming anyone's."""

import secrets
import sys
import time
from contextlib import suppress
from typing import Annotated, Any

import msgspec
import psycopg
import typer
from rich.console import Console
from rich.text import Text

from pgbus.cli.access import open_bus
from pgbus.cli.options import Dsn, Json
from pgbus.cli.printer import clean, output, remark, shorten, write_json
from pgbus.core.decoding import read_headers
from pgbus.core.patterns import expand
from pgbus.errors import ConfigurationError, StoreError
from pgbus.model.envelope import Incoming
from pgbus.store import migrate
from pgbus.store import tail as tails
from pgbus.store.query import run
from pgbus.threads.link import connect, translated
from pgbus.threads.pooling import is_pooled
from pgbus.threads.signals import Latch, ended_by_signals

PAUSE = 0.1
"""Seconds between two looks: asking costs publishers nothing, notifying would."""
MOST = 500
"""Events in one look."""
SHORT_BODY = 160
"""Characters of a body where there is no terminal whose width could say."""
PARTING = 10
"""How often the end tries to drop the queue; then workers and later tails do."""


def tail(
    patterns: Annotated[
        list[str],
        typer.Argument(
            metavar="PATTERN",
            help="Topics with wildcards: '*' is exactly one word, '#' zero or more.",
            show_default=False,
        ),
    ],
    dsn: Dsn = None,
    limit: Annotated[
        int | None,
        typer.Option("--count", "-n", min=1, help="Stop after so many.", show_default=False),
    ] = None,
    bodies: Annotated[bool, typer.Option("--bodies", help="Show bodies whole.")] = False,
    as_json: Json = False,
) -> None:
    """Show events as they are published, until Ctrl-C. Nobody misses them.

    What is shown counts in no receipt and makes no topic routable; the temporary queue behind it
    goes when this ends, however it ends. JSON is one object a line, with everything.
    """
    expansions = [one for pattern in patterns for one in expand(pattern)]
    asked = Latch()
    with (
        open_bus(dsn) as bus,
        ended_by_signals(asked),
        translated(),
        connect(bus.dsn, name="pgbus tail") as connection,
    ):
        if is_pooled(connection):
            raise ConfigurationError(
                "tail needs a session of its own, and the DSN leads through a pooler: give the "
                "server's own address"
            )
        run(connection, migrate.check())
        run(connection, tails.sweep())
        number = _start(connection, expansions)
        try:
            remark(f"watching {' '.join(patterns)}, until Ctrl-C")
            _show(connection, number, limit, asked, bodies=bodies, as_json=as_json)
        except psycopg.errors.IdleSessionTimeout as error:
            raise StoreError(
                "this tail stood still for two minutes, so its queue is gone: start it again"
            ) from error
        finally:
            _part(connection, number)


def _start(connection: "psycopg.Connection[Any]", expansions: list[str]) -> int:
    while True:
        number = secrets.randbits(32) - 2**31
        with suppress(psycopg.errors.DuplicateObject), connection.transaction():
            run(connection, tails.start(number, expansions))
            return number


def _show(
    connection: "psycopg.Connection[Any]",
    number: int,
    limit: int | None,
    asked: Latch,
    *,
    bodies: bool,
    as_json: bool,
) -> None:
    left = limit
    console = output()
    while not asked.is_set() and (left is None or left > 0):
        seen = run(connection, tails.read(number, MOST if left is None else min(MOST, left)))
        for event in seen:
            if as_json:
                write_json(_as_object(event), line=True)
            else:
                _print(console, event, whole=bodies)
        sys.stdout.flush()
        if left is not None:
            left -= len(seen)
        if not seen:
            asked.wait(PAUSE)


def _part(connection: "psycopg.Connection[Any]", number: int) -> None:
    with suppress(psycopg.Error):
        run(connection, tails.stop(number))
        for _ in range(PARTING):
            if number not in run(connection, tails.sweep()):
                return
            time.sleep(PAUSE)


def _print(console: Console, event: tails.Seen, *, whole: bool) -> None:
    incoming = read_headers(event.headers)
    moment = (incoming.published_at or event.enqueued_at).astimezone()
    head = Text.assemble(
        (f"{moment:%H:%M:%S}.{moment.microsecond // 1000:03}", "dim"),
        "  ",
        (clean(incoming.topic or "-"), "bold cyan"),
        "  ",
        (clean(incoming.key or "-"), "yellow" if incoming.key else "dim"),
        "  ",
        (str(incoming.id or "-"), "dim"),
        "  ",
    )
    body = clean("null" if event.body is None else event.body)
    if not whole:
        room = console.width - len(head.plain) if console.is_terminal else SHORT_BODY
        body = shorten(body, max(20, room))
    console.print(head.append(body), soft_wrap=True)


def _as_object(event: tails.Seen) -> dict[str, Any]:
    incoming: Incoming = read_headers(event.headers)
    return {
        "id": incoming.id,
        "topic": incoming.topic,
        "version": incoming.version,
        "key": incoming.key,
        "published_at": incoming.published_at,
        "enqueued_at": event.enqueued_at,
        "correlation_id": incoming.correlation_id,
        "causation_id": incoming.causation_id,
        "headers": incoming.headers,
        "body": None if event.body is None else msgspec.Raw(event.body.encode()),
    }

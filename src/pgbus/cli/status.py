"""``status``: what subscriptions hold."""

import signal
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pgbus import Bus, SubscriptionStatus
from pgbus.cli.access import open_bus
from pgbus.cli.fault import describe
from pgbus.cli.options import Dsn, Json
from pgbus.cli.printer import (
    Column,
    age,
    output,
    plain,
    print_table,
    remark,
    say,
    table,
    write_json,
)
from pgbus.errors import ConfigurationError, StoreError

COLUMNS = (
    Column("subscription", style="bold"),
    Column("ready", right=True),
    Column("in flight", right=True, style="green"),
    Column("delayed", right=True, style="cyan"),
    Column("parked", right=True, style="yellow"),
    Column("dead letters", right=True, style="bold red"),
    Column("oldest", right=True),
    Column("workers", right=True),
)


def status(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Only these subscriptions.", show_default=False),
    ] = None,
    dsn: Dsn = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Keep showing it, until Ctrl-C.")
    ] = False,
    interval: Annotated[
        float, typer.Option(min=0.1, metavar="SECONDS", help="How often --watch looks.")
    ] = 1.0,
    as_json: Json = False,
) -> None:
    """Show what subscriptions hold: depth, in flight, dead letters, age, workers.

    READY can be handled now, IN FLIGHT is in a worker's hands, DELAYED waits for its time or its
    next attempt, PARKED waits behind a dead letter of its key. OLDEST is how long the oldest ready
    event has waited (seconds in JSON).
    """
    with open_bus(dsn) as bus:
        first = _look(bus, names or [])
        if not watch:
            _print(first, as_json=as_json)
            return
        # The cursor is hidden meanwhile, and has to come back.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            if as_json or not output().is_terminal:
                _repeat(bus, names or [], interval, as_json=as_json)
            else:
                _watch(bus, names or [], interval, first)
        except KeyboardInterrupt:
            return


def _look(bus: Bus, names: Sequence[str]) -> list[SubscriptionStatus]:
    found = bus.status(*names)
    missing = sorted(set(names) - {one.name for one in found})
    if missing:
        raise ConfigurationError(f"there is no subscription {missing[0]!r}")
    return found


def _print(found: list[SubscriptionStatus], *, as_json: bool) -> None:
    if as_json:
        write_json([as_object(one) for one in found])
    elif found:
        print_table(COLUMNS, map(cells, found))
    else:
        say("no subscriptions yet: 'pgbus declare module:bus' or bus.declare() creates them")


def _repeat(bus: Bus, names: Sequence[str], interval: float, *, as_json: bool) -> None:
    while True:
        try:
            _print_moment(_look(bus, names), as_json=as_json)
        except StoreError as error:
            remark(f"{describe(error)}; looking again")
        time.sleep(interval)


def _print_moment(found: list[SubscriptionStatus], *, as_json: bool) -> None:
    if as_json:
        now = datetime.now().astimezone().isoformat(timespec="milliseconds")
        write_json({"at": now, "subscriptions": list(map(as_object, found))}, line=True)
    else:
        say(f"{datetime.now():%H:%M:%S}\n{plain(COLUMNS, map(cells, found))}\n")
        output().file.flush()


def _watch(
    bus: Bus, names: Sequence[str], interval: float, found: list[SubscriptionStatus]
) -> None:
    trouble = ""
    with Live(console=output(), auto_refresh=False) as live:
        while True:
            live.update(_view(found, trouble), refresh=True)
            time.sleep(interval)
            try:
                found, trouble = _look(bus, names), ""
            except StoreError as error:
                trouble = describe(error)


def _view(found: list[SubscriptionStatus], trouble: str) -> Group:
    """Draw the last answer, and why there is no newer one."""
    shown: Table | Text = table(COLUMNS, map(cells, found))
    if not found:
        shown = Text("no subscriptions yet")
    foot = Text(f"\n{datetime.now():%H:%M:%S}   Ctrl-C ends", style="dim")
    return Group(shown, Text(f"\n{trouble}", style="red"), foot) if trouble else Group(shown, foot)


def cells(one: SubscriptionStatus) -> list[str]:
    """Return a subscription as a row of a table."""
    counts = (one.ready, one.in_flight, one.delayed, one.parked, one.dead_letters)
    return [one.name, *(f"{count:,}" for count in counts), age(one.oldest_age), f"{one.workers:,}"]


def as_object(one: SubscriptionStatus) -> dict[str, Any]:
    """Return a subscription as an object of JSON; the age in seconds."""
    oldest = None if one.oldest_age is None else round(one.oldest_age.total_seconds(), 6)
    return {
        "name": one.name,
        "ready": one.ready,
        "in_flight": one.in_flight,
        "delayed": one.delayed,
        "parked": one.parked,
        "dead_letters": one.dead_letters,
        "oldest_age": oldest,
        "workers": one.workers,
    }

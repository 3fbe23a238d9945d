"""The command line."""

import logging
import os
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from benchmarks import machine
from benchmarks.peers import PEERS
from benchmarks.report import Report, markdown, show, show_overview, write_json
from benchmarks.run import Run
from benchmarks.server import CACHE, Server

PROGRAMS = ("publish", "handle", "latency", "growth", "footprint", "profile")
QUICK = {"events": 4_000, "repeat": 2, "seconds": 20.0}
FULL = {"events": 50_000, "repeat": 5, "seconds": 600.0}
WIDTH = 160
"""Columns, where the output is no terminal."""
BACKLOGS = (1_000, 100_000, 1_000_000)
QUICK_BACKLOGS = (1_000, 20_000)
RESULTS = CACHE / "benchmarks.json"

app = typer.Typer(
    name="python -m benchmarks",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""How fast pgbus is, beside its floors and its peers, on this machine.

    Each program says what it asks, measures everything in turns on the same events, prints ratios
    first, and writes JSON, and Markdown where told to. benchmarks/peers/setup starts the peers'
    servers; a peer that is missing is left out.

    What counts are the ratios of one run: absolute figures drift from machine to machine.""",
)

_Peers = Annotated[
    str, typer.Option(help=f"all, none, or some of {', '.join(PEERS)}, separated by commas.")
]
_Dsn = Annotated[
    str | None,
    typer.Option(
        help="A PostgreSQL on which databases may be created; left out, a cluster of its own on "
        "disk with PostgreSQL's default settings."
    ),
]


def _command(programs: tuple[str, ...]) -> Callable[..., None]:
    def command(
        quick: Annotated[
            bool, typer.Option("--quick", help="Small sizes, for a first look.")
        ] = False,
        events: Annotated[int | None, typer.Option(min=20, help="Events of one run.")] = None,
        repeat: Annotated[int | None, typer.Option(min=1, help="Counted runs of each.")] = None,
        warm_up: Annotated[bool, typer.Option(help="One more run that does not count.")] = True,
        peers: _Peers = "all",
        dsn: _Dsn = None,
        folder: Annotated[Path, typer.Option(help="Where its own cluster lies: a disk.")] = CACHE,
        seconds: Annotated[
            float | None,
            typer.Option(
                help="Length of footprint's sustained run; latency's rates have a quarter at most."
            ),
        ] = None,
        backlog: Annotated[
            list[int] | None, typer.Option(help="growth's backlogs; give it several times.")
        ] = None,
        json: Annotated[Path, typer.Option(help="Write the results here.")] = RESULTS,
        markdown: Annotated[Path | None, typer.Option(help="Write the tables here.")] = None,
    ) -> None:
        defaults = QUICK if quick else FULL
        chosen: dict[str, Any] = {
            "events": events or int(defaults["events"]),
            "repeat": repeat or int(defaults["repeat"]),
            "warm_up": warm_up,
            "peers": _peers(peers),
            "seconds": seconds or defaults["seconds"],
            "backlogs": sorted(backlog or (QUICK_BACKLOGS if quick else BACKLOGS)),
        }
        _go(programs, Server(dsn, folder), chosen, json, markdown)

    return command


def _peers(given: str) -> list[str]:
    if given in ("all", "none"):
        return list(PEERS) if given == "all" else []
    names = [name.strip() for name in given.split(",")]
    unknown = [name for name in names if name not in PEERS]
    if unknown:
        raise typer.BadParameter(f"no such peer: {', '.join(unknown)}", param_hint="--peers")
    return names


def _go(
    programs: tuple[str, ...],
    server: Server,
    chosen: dict[str, Any],
    json: Path,
    markdown_path: Path | None,
) -> None:
    logging.getLogger("pgbus").setLevel(logging.ERROR)
    console, progress = Console(), Console(stderr=True)
    if not console.is_terminal:
        console = Console(width=WIDTH)
    reports: list[Report] = []
    json.parent.mkdir(parents=True, exist_ok=True)
    with server, progress.status("starting") as status:
        run = Run(
            server=server,
            machine=machine.describe(server),
            tell=lambda text: status.update(escape(text)),
            **chosen,
        )
        for name in programs:
            measure: Callable[[Run], Report] = getattr(import_module(f"benchmarks.{name}"), name)
            reports.append(measure(run))
            show(reports[-1], console)
            # After each program, so that a run that is ended early has not been for nothing.
            write_json(reports, json)
            if markdown_path is not None:
                markdown_path.write_text(markdown(reports), encoding="utf-8")
    if len(reports) > 1:
        show_overview(reports, console)
    progress.print(f"every value of every round: {json}")


_HELP = {
    "publish": "How many events a second are published: alone, in batches, in transactions.",
    "handle": "How many events a second typed handlers get through, in order per key.",
    "latency": "How long an event takes from its publisher to its handler.",
    "growth": "What taking, publishing and handling cost as the backlog grows.",
    "footprint": "WAL, growth of tables, dead rows, memory, and what an idle bus asks.",
    "profile": "Where the time of an event goes: what limits the other figures.",
}
for _name in PROGRAMS:
    app.command(_name, help=_HELP[_name])(_command((_name,)))
app.command("all", help="Every program, one after the other.")(_command(PROGRAMS))


def main() -> None:
    """Run the command line."""
    # A developer's own settings must not steer a connection elsewhere.
    for name in [name for name in os.environ if name.startswith("PG") and "BENCH" not in name]:
        del os.environ[name]
    # Whoever ends a run early wants its server and its consumers gone as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    app()

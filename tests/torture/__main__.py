"""``python -m tests.torture``: exit code 0 where the bus held, 1 where it broke a promise."""

import random
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tests.torture.mutants import MUTANTS
from tests.torture.report import as_json, show
from tests.torture.run import run
from tests.torture.schedule import KINDS, plan, read_mix
from tests.torture.supervisor import Plan


def torture(
    duration: Annotated[float, typer.Option(help="Seconds of faults.", min=5)] = 60.0,
    seed: Annotated[int | None, typer.Option(help="Of the schedule; random if left out.")] = None,
    workers: Annotated[int, typer.Option(help="Worker processes.", min=1)] = 5,
    publishers: Annotated[int, typer.Option(help="Publisher processes.", min=1)] = 4,
    keys: Annotated[int, typer.Option(help="Keys that order events.", min=1)] = 80,
    events: Annotated[
        int,
        typer.Option(help="Go on, for half as long again at most, until so many are published."),
    ] = 0,
    rate: Annotated[float, typer.Option(help="Events a second, at most.", min=1)] = 1000.0,
    lease: Annotated[float, typer.Option(help="Seconds.", min=0.5)] = 1.5,
    faults: Annotated[
        str,
        typer.Option(help=f"Weights, as in kill=9,stall=0. Of: {', '.join(KINDS)}, postmaster."),
    ] = "",
    mutant: Annotated[
        str | None, typer.Option(help=f"Break the bus first: {', '.join(MUTANTS)}.")
    ] = None,
    pg_bin: Annotated[
        Path | None, typer.Option(help="PostgreSQL's programs; the embedded ones if left out.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    keep: Annotated[
        Path | None, typer.Option(help="Copy the logs of all processes to this folder.")
    ] = None,
) -> None:
    """Publish and handle under faults, and decide whether every promise was kept."""
    if seed is None:
        seed = random.SystemRandom().randrange(1_000_000)
    if mutant is not None and mutant not in MUTANTS:
        raise typer.BadParameter(f"no such mutant: {mutant}", param_hint="--mutant")
    try:
        mix = read_mix(faults)
        plan(seed, duration, mix)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--faults") from error
    console = Console()
    if not json:
        console.print(f"Seed {seed}: {duration:g} s of faults begin.")
    asked = Plan(
        seed=seed,
        duration=duration,
        events=events,
        workers=workers,
        publishers=publishers,
        keys=keys,
        rate=rate,
        lease=lease,
        mix=mix,
        mutant=mutant,
    )
    report = run(asked, bin_dir=pg_bin, keep=keep)
    if json:
        print(as_json(report))
    else:
        show(report, console)
    raise typer.Exit(0 if report.held else 1)


if __name__ == "__main__":
    typer.run(torture)

"""``python -m tests.torture``: exit code 0 where the bus held, 1 where it broke a promise."""

import random
import shutil
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tests.torture.checker import judge
from tests.torture.mutants import MUTANTS
from tests.torture.report import Report, as_json, show
from tests.torture.schedule import KINDS, plan, read_mix
from tests.torture.stage import Stage
from tests.torture.supervisor import Plan, Supervisor


def torture(
    duration: Annotated[float, typer.Option(help="Seconds of faults.", min=5)] = 60.0,
    seed: Annotated[int | None, typer.Option(help="Of the schedule; random if left out.")] = None,
    processes: Annotated[int, typer.Option(help="Worker processes.", min=1)] = 4,
    publishers: Annotated[int, typer.Option(help="Publisher processes.", min=1)] = 4,
    keys: Annotated[int, typer.Option(help="Keys that order events.", min=1)] = 80,
    rate: Annotated[float, typer.Option(help="Events a second.", min=1)] = 520.0,
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
    began = time.monotonic()
    asked = Plan(seed, duration, processes, publishers, keys, rate, mix, mutant)
    with Stage(bin_dir=pg_bin, lease=lease, mutant=mutant) as stage:
        try:
            history = Supervisor(stage, asked).run()
        finally:
            if keep is not None:
                shutil.copytree(stage.folder, keep, dirs_exist_ok=True)
    report = Report(seed, duration, time.monotonic() - began, mutant, judge(history))
    if json:
        print(as_json(report))
    else:
        show(report, console)
    raise typer.Exit(0 if report.held else 1)


if __name__ == "__main__":
    typer.run(torture)

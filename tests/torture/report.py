"""What a run has to say: for people, and as JSON."""

import dataclasses

import msgspec
from rich.console import Console
from rich.table import Table

from tests.torture.checker import Verdict
from tests.torture.supervisor import Plan

MOST_ACCOUNTS = 20


class Report(msgspec.Struct):
    """A verdict and what it is about."""

    plan: Plan
    seconds: float
    """How long it took altogether, from the server's start to the verdict."""
    verdict: Verdict

    @property
    def held(self) -> bool:
        return not self.verdict.violations


def as_json(report: Report) -> str:
    return msgspec.json.encode(
        {
            "seed": report.plan.seed,
            "duration": report.plan.duration,
            "options": report.plan.options,
            "seconds": round(report.seconds, 1),
            "mutant": report.plan.mutant,
            "held": report.held,
            **dataclasses.asdict(report.verdict),
            "violations": [f"{one.law}: {one.account}" for one in report.verdict.violations],
            "injected": report.verdict.injected,
        }
    ).decode()


def show(report: Report, console: Console) -> None:
    plan, verdict = report.plan, report.verdict
    table = Table("figure", "", title=f"seed {plan.seed}, {plan.duration:g} s of faults")
    told = ", ".join(f"{kind} {count}" for kind, count in sorted(verdict.told.items()))
    for name, value in (
        ("events published", verdict.published),
        ("rolled back, unknown to their publisher", f"{verdict.rolled_back}, {verdict.unknown}"),
        ("deliveries", verdict.deliveries),
        ("of these duplicates", verdict.duplicates),
        ("transactional effects", verdict.effects),
        ("dead letters", verdict.dead_letters),
        ("redriven, dropped, parked", f"{verdict.redriven}, {verdict.dropped}, {verdict.parked}"),
        ("batches, the largest", f"{verdict.batches}, {verdict.largest_batch}"),
        ("workers declared dead", verdict.deaths),
        ("fenced settlements", verdict.fenced),
        ("told to on_error", told),
        ("faults, but for handlers that raise", verdict.injected),
        ("seconds in all", f"{report.seconds:.0f}"),
    ):
        table.add_row(name, str(value))
    console.print(table)
    faults = Table("fault", "times", "worst recovery")
    for kind, times in verdict.faults.items():
        seconds = verdict.recovery.get(kind)
        faults.add_row(kind, str(times), "" if seconds is None else f"{seconds:.1f} s")
    console.print(faults)
    _show_violations(report, console)


def _show_violations(report: Report, console: Console) -> None:
    violations = report.verdict.violations
    if not violations:
        console.print("No violation of L, O, X, E, F or A: the bus held.")
        return
    for one in violations[:MOST_ACCOUNTS]:
        console.print(f"{one.law}: {one.account}", markup=False, highlight=False)
    if len(violations) > MOST_ACCOUNTS:
        console.print(f"… and {len(violations) - MOST_ACCOUNTS} more")
    console.print(f"{len(violations)} violations; again with {report.plan.options}")

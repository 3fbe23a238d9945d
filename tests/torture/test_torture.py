"""A minute of faults in every run of the suite; ``make torture`` runs other seeds, and longer."""

import pytest

from tests.servers import Server
from tests.torture import schedule
from tests.torture.report import as_json
from tests.torture.run import run
from tests.torture.schedule import HARMS, KINDS, POSTMASTER
from tests.torture.supervisor import Plan

SEED = 20_000
EVENTS = 20_000
RATE = 500.0
"""Events a second, at most: what is published is judged in the end, and takes its time."""
FAULTS = 250
POSTMASTERS = 3
FENCED = 20
REDRIVEN = 50
BATCHES = 500
"""Calls for several events at once."""
RECOVERY = 15.0
"""Seconds; far more than any fault takes on an idle machine, and far less than a stuck bus."""
SEEN = {"poison": "exit"}
"""What a fault of the schedule is called where it is noted."""


def test_the_bus_holds_under_faults(server: Server) -> None:
    if server.bin_dir is None:
        pytest.skip("needs the programs of PostgreSQL: --pg=embedded, --pg=system or --pg-bin")
    plan = Plan(seed=SEED, duration=60.0, events=EVENTS, rate=RATE)
    report = run(plan, bin_dir=server.bin_dir)
    print(as_json(report))
    verdict = report.verdict
    assert verdict.violations == []
    assert verdict.published >= EVENTS
    assert verdict.injected >= FAULTS
    assert verdict.faults[POSTMASTER] >= POSTMASTERS
    assert verdict.fenced > FENCED
    assert verdict.redriven > REDRIVEN
    assert verdict.dropped > 0
    assert verdict.parked > 0
    assert verdict.batches > BATCHES
    assert verdict.recovery
    assert max(verdict.recovery.values()) < RECOVERY
    happened = {SEEN.get(kind, kind) for kind in KINDS}
    assert happened | {"fail", "lost commit", "cut before commit"} <= verdict.faults.keys()


def test_a_run_says_how_to_repeat_it() -> None:
    assert Plan(7).options == "--seed 7 --duration 60"
    chosen = Plan(7, 600.0, mix={"kill": 3, "stall": 0}, workers=2, mutant="stale-routes")
    assert chosen.options == (
        "--seed 7 --duration 600 --faults kill=3,stall=0 --workers 2 --mutant stale-routes"
    )


def test_the_schedule_follows_from_the_seed_alone() -> None:
    assert schedule.plan(1, 60.0) == schedule.plan(1, 60.0) != schedule.plan(2, 60.0)


def test_the_mix_of_faults_can_be_chosen() -> None:
    only = dict.fromkeys(KINDS, 0) | {"kill": 1, POSTMASTER: 0}
    assert {one.kind for one in schedule.plan(1, 60.0, only)} == {"kill"}
    assert {one.kind for one in schedule.plan(1, 60.0)} == {*KINDS, POSTMASTER}
    assert all(one.at < 60.0 for one in schedule.plan(1, 60.0))
    assert {*HARMS} < {*KINDS}
    with pytest.raises(ValueError, match="earthquake"):
        schedule.plan(1, 60.0, {"earthquake": 1})

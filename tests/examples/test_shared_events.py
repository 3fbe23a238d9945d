"""Two services that share a package of events, deployed at different times amid traffic."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATIENCE = 120


# Seconds each: nine processes start, one after another, and orders pass in between.
@pytest.mark.parametrize(
    ("order", "between"), [("publisher-first", (2, 1)), ("subscriber-first", (1, 2))]
)
def test_a_rollout_loses_nothing(order: str, between: tuple[int, int], dsn: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "examples.shared_events.rollout", order],
        cwd=ROOT,
        env={**os.environ, "PGBUS_DSN": dsn},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    pairs = re.findall(r"placed by ordering (\d)\.0, billed by billing (\d)\.0: (\d+)", done.stdout)
    count = {(int(placed), int(billed)): int(orders) for placed, billed, orders in pairs}
    assert {(1, 1), between, (2, 2)} <= count.keys()
    assert min(count[pair] for pair in [(1, 1), between, (2, 2)]) >= 30
    assert done.stdout.endswith("0 orders differ from their bills, 0 dead letters\n")


def test_it_refuses_what_it_does_not_know() -> None:
    command = [sys.executable, "-m", "examples.shared_events.rollout", "both-first"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "say publisher-first or subscriber-first\n")

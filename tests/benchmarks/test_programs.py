"""Each program of the suite runs, at a size at which its figures mean nothing."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from benchmarks.app import PROGRAMS

from tests.servers.server import Server

TINY = ("--events=40", "--repeat=1", "--no-warm-up", "--seconds=1")
BACKLOGS = ("--backlog=50", "--backlog=100")
# What must be in the tables of each, whatever was reached.
SHOWN = {
    "publish": [
        "one by one to raw INSERT and commit",
        "one by one, each with an id",
        "to 20 queues, one by one",
        "10,000 bindings that begin and end alike, one by one, each to a topic of its own",
    ],
    "handle": ["10,000 events in 1,000 keys"],
    "latency": ["p99 from publish to handler at 500 events/s"],
    "growth": [
        "cost of handle: a hot key in front, in flight",
        "cost of take: beside 100 keys whose events wait for a retry",
        "cost of handle: beside 100 parked keys",
        "take, dead rows of the last round not removed: 1 key",
    ],
    "footprint": ["WAL, 10 events a key"],
    "profile": ["its statement, committed", "handle one key"],
}
PEERS = {"handle": "pgmq-grouped"}


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_measures_and_reports(program: str, server: Server, tmp_path: Path) -> None:
    found, tables = tmp_path / "found.json", tmp_path / "tables.md"
    done = run(
        program,
        *TINY,
        *BACKLOGS,
        f"--peers={PEERS.get(program, 'none')}",
        f"--dsn={server.dsn()}",
        f"--json={found}",
        f"--markdown={tables}",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [report] = json.loads(found.read_text())
    assert report["program"] == program
    assert report["machine"]["fsync"] in ("on", "off")
    assert set(SHOWN[program]) <= names(report)
    assert all(one["median"] >= 0 and one["unit"] for one in report["series"])
    assert not failures(report)
    assert report["question"] in done.stdout
    assert all(name in tables.read_text() for name in SHOWN[program])


def names(report: dict[str, Any]) -> set[str]:
    """What figures, shapes and contenders are called."""
    measured = [name for one in report["series"] for name in (one["shape"], one["contender"])]
    return {*measured, *(figure["what"] for figure in report["figures"])}


def failures(report: dict[str, Any]) -> list[str]:
    """What was left out because it failed, and not because it is not here."""
    return [line for line in report["left_out"] if "Error" in line]


def test_the_help_names_every_program() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert all(program in done.stdout for program in (*PROGRAMS, "all"))


def test_an_unknown_peer_is_refused() -> None:
    done = run("publish", "--peers=kafka")
    assert done.returncode == 2
    assert "kafka" in done.stderr


def test_a_missing_peer_is_left_out_with_a_line_that_says_so(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGBUS_BENCH_REDIS", "redis://127.0.0.1:1/0")
    found = tmp_path / "found.json"
    peers = "--peers=redis,pgmq-grouped"
    done = run("publish", *TINY, peers, f"--dsn={server.dsn()}", f"--json={found}")
    assert done.returncode == 0, done.stdout + done.stderr
    [report] = json.loads(found.read_text())
    assert [line for line in report["left_out"] if line.startswith("Redis Streams:")]
    assert "pgmq grouped: it publishes as pgmq does" in report["left_out"]
